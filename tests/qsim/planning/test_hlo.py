"""Optimised programs read off their text."""

from __future__ import annotations

from qsim.planning.hlo import BY_SUM, Product, Program

TEXT = """
HloModule jit_f, is_scheduled=true

%fused (param: f32[8,4]) -> bf16[8,4] {
  %param = f32[8,4]{1,0} parameter(0)
  %bits = u32[8,4]{1,0} bitcast-convert(%param), metadata={op_name="jit(f)/qkv.fprop/qkv.fprop/rounding.2/bitcast"}
  %mask = u32[8,4]{1,0} and(%bits, %bits), metadata={op_name="jit(f)/qkv.fprop/qkv.fprop/rounding.2/and"}
  ROOT %narrow = bf16[8,4]{1,0:T(8,128)(2,1)} convert(%mask), metadata={op_name="jit(f)/gelu.fprop/rounding.1/and"}
}

ENTRY %main (a: bf16[8,4], b: bf16[4,8]) -> f32[8,8] {
  %a = bf16[8,4]{1,0} parameter(0)
  %b = bf16[4,8]{1,0} parameter(1)
  %dot.1 = f32[8,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}, metadata={op_name="jit(f)/qkv.fprop/dot_general"}
  %gather = (bf16[8,4]{1,0}, bf16[64,4]{1,0}) all-gather-start(%a), channel_id=1, dimensions={0}
  %word = u32[] all-reduce(u32[] %c), to_apply=%max
  %sum = f32[4]{0} all-reduce(%d), to_apply=%add
  %library = (f32[8,8]{1,0}, s8[4096]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm"
  ROOT %conv = f32[8,8]{1,0} convolution(%a, %b), dim_labels=bf_io->bf
}
"""


def test_roundings_are_found_by_their_own_operation() -> None:
    asked = {("qkv.fprop", 2): "bf16", ("gelu.fprop", 1): "bf16", ("qkv.fprop", 1): "bf16"}
    assert Program(TEXT).roundings(asked) == {("qkv.fprop", 2)}
    assert Program(TEXT).roundings(dict.fromkeys(asked, "fp16")) == set()


def test_products_have_types() -> None:
    operands = ("bf16", "bf16")
    assert Program(TEXT).products == (
        Product(operands, "f32", "jit(f)/qkv.fprop/dot_general"),
        Product(operands, "f32", ""),
        Product(operands, "f32", ""),
    )


def test_what_moves() -> None:
    assert Program(TEXT).collectives == {
        ("all-gather", "bf16"): 1, ("all-reduce", "u32"): 1, ("all-reduce", "f32"): 1,
    }  # fmt: skip


def test_scopes() -> None:
    assert {"jit(f)", "qkv.fprop", "gelu.fprop", "rounding.2"} <= Program(TEXT).scopes


GATHERED = """
%fused (p: f32[32], q: f32[8], i: s32[]) -> f32[32] {
  %p = f32[32]{0} parameter(0)
  ROOT %written = f32[32]{0} dynamic-update-slice(%p, %q, %i)
}

ENTRY %main () -> f32[32] {
  %own = f32[32]{0} fusion(%zeros, %mine, %place), kind=kLoop, calls=%fused
  %moved = f32[32]{0} copy(%own)
  ROOT %all = f32[32]{0} all-reduce(%moved), to_apply=%add
}
"""


def test_a_sum_of_what_one_device_writes_is_a_gathering() -> None:
    assert Program(GATHERED).collectives == {(BY_SUM, "f32"): 1}
    assert Program(GATHERED.replace("dynamic-update-slice(", "add(")).collectives == {("all-reduce", "f32"): 1}
