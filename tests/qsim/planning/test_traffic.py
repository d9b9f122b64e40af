"""Bytes that a GPU's program moves, counted by hand beside it."""

from __future__ import annotations

import pytest

from qsim.planning.hlo import Program
from qsim.planning.traffic import Traffic, received, size_of, traffic

TEXT = """
HloModule jit_f, is_scheduled=true

%fused_slice (stack: f32[4,8,16], at: s32[]) -> bf16[8,16] {
  %stack = f32[4,8,16]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  %row = f32[1,8,16]{2,1,0} dynamic-slice(%stack, %at, %at, %at), dynamic_slice_sizes={1,8,16}
  %flat = f32[8,16]{1,0} bitcast(%row)
  ROOT %narrow = bf16[8,16]{1,0} convert(%flat)
}

%fused_write (stack: bf16[4,8,16], row: bf16[8,16], at: s32[]) -> (bf16[4,8,16], f32[8]) {
  %stack = bf16[4,8,16]{2,1,0} parameter(0)
  %row = bf16[8,16]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %shaped = bf16[1,8,16]{2,1,0} bitcast(%row)
  %kept = bf16[4,8,16]{2,1,0} dynamic-update-slice(%stack, %shaped, %at, %at, %at)
  %sums = f32[8]{0} reduce(%row, %zero), dimensions={1}, to_apply=%add
  ROOT %both = (bf16[4,8,16]{2,1,0}, f32[8]{0}) tuple(%kept, %sums)
}

%body (carry: (s32[], f32[4,8,16], bf16[4,8,16])) -> (s32[], f32[4,8,16], bf16[4,8,16]) {
  %carry = (s32[], f32[4,8,16]{2,1,0}, bf16[4,8,16]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %whole = f32[4,8,16]{2,1,0} get-tuple-element(%carry), index=1
  %out = bf16[4,8,16]{2,1,0} get-tuple-element(%carry), index=2
  %read = bf16[8,16]{1,0} fusion(%whole, %i), kind=kLoop, calls=%fused_slice, metadata={op_name="a"}
  %wrote = (bf16[4,8,16]{2,1,0}, f32[8]{0}) fusion(%out, %read, %i), kind=kInput, calls=%fused_write
  ROOT %next = (s32[], f32[4,8,16]{2,1,0}, bf16[4,8,16]{2,1,0}) tuple(%i, %whole, %out)
}

ENTRY %main (a: f32[4,8,16], b: bf16[16,16]) -> bf16[8,16] {
  %a = f32[4,8,16]{2,1,0} parameter(0)
  %b = bf16[16,16]{1,0} parameter(1)
  %start = (s32[], f32[4,8,16]{2,1,0}, bf16[4,8,16]{2,1,0}) tuple(%zero, %a, %empty)
  %loop = (s32[], f32[4,8,16]{2,1,0}, bf16[4,8,16]{2,1,0}) while(%start), condition=%less, body=%body, """ + (
    """backend_config={"known_trip_count":{"n":"4"}}
  %x = bf16[8,16]{1,0} slice(%kept), slice={[0:8], [0:16]}
  %product = (bf16[8,16]{1,0}, s8[4194304]{0}) custom-call(%x, %b), custom_call_target="__cublas$lt$matmul"
  ROOT %y = bf16[8,16]{1,0} get-tuple-element(%product), index=0
}
"""
)


def test_a_program_moves_what_is_counted_by_hand() -> None:
    """Of 8 x 16 values a layer: slice 512 in and 256 out; update 256 in, 256 out and 8 sums; two indices."""
    layer = (512 + 4 + 256) + (256 + 4 + 256 + 32)
    assert traffic(Program(TEXT)) == Traffic(kernels=2 * 4 + 2, bytes=4 * layer + 2 * 256 + (256 + 512 + 256))


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("f32[]", 4),
        ("bf16[2,3]{1,0}", 12),
        ("(pred[5], s4[4]{0}, f8e4m3fn[3])", 10),
        ("s32[0]", 0),
        ("u64[2]{0:T(128)}", 16),
    ],
)
def test_sizes_of_types(kind: str, size: int) -> None:
    assert size_of(kind) == size


def test_what_collectives_give_is_counted_as_often_as_they_run() -> None:
    """Of a pair that starts and ends the end; of several arrays at once each type's own."""
    text = TEXT.replace(
        "  %read = bf16[8,16]{1,0} fusion",
        """  %sent = (bf16[8,16]{1,0}, bf16[16,16]{1,0}) all-gather-start(%row), dimensions={0}
  %all = bf16[16,16]{1,0} all-gather-done(%sent)
  %read = bf16[8,16]{1,0} fusion""",
    ).replace(
        "  ROOT %y = ",
        """  %both = (f32[3]{0}, s32[5]{0}) all-to-all(%p, %q), dimensions={0}
  ROOT %y = """,
    )
    expected = {"all-gather bf16": 4 * 512, "all-to-all f32": 12, "all-to-all s32": 20}
    assert received(Program(text)) == expected
    assert received(Program(TEXT)) == {}
