"""What the processor that Numba compiles for can do, asked of its code generator: never of the host alone.

``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES`` may name another processor than the one at hand; three instructions are
compiled for that target and their assembly is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from llvmlite import binding
from numba.core.registry import cpu_target

_PROBES = """
declare <8 x float> @llvm.fma.v8f32(<8 x float>, <8 x float>, <8 x float>)
define <16 x i32> @wide(<16 x i32> %x) {
  %y = add <16 x i32> %x, %x
  ret <16 x i32> %y
}
define <8 x float> @fused(<8 x float> %x) {
  %y = call <8 x float> @llvm.fma.v8f32(<8 x float> %x, <8 x float> %x, <8 x float> %x)
  ret <8 x float> %y
}
define <4 x half> @half_add(<4 x half> %x) {
  %y = fadd <4 x half> %x, %x
  ret <4 x half> %y
}
define <4 x half> @narrow(<4 x float> %x) {
  %y = fptrunc <4 x float> %x to <4 x half>
  ret <4 x half> %y
}
"""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Facts of a processor.

    lanes: float32 values in a register.  tile: (rows, vectors of columns) of sums that its registers hold.
    rounding_operand: an instruction may name how it rounds (AVX-512).  half_arithmetic: IEEE fp16 add, multiply and
    fused multiply-add (AVX512-FP16).  half_conversion: float32 to fp16 and back in vector instructions.
    control: which register holds rounding and flushing, "mxcsr", "fpcr" or "".
    """

    lanes: int
    tile: tuple[int, int]
    rounding_operand: bool
    half_arithmetic: bool
    half_conversion: bool
    control: str


@cache
def target() -> Target:
    """The target of this process."""
    triple, name, features = cpu_target.target_context.codegen().magic_tuple()
    module = binding.parse_assembly(_PROBES)
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=name, features=features, opt=3)
    text = machine.emit_assembly(module)
    x86, arm = triple.startswith(("x86_64", "i686")), triple.startswith(("aarch64", "arm64"))
    if x86 and "zmm" in text:
        lanes, tile = 16, (8, 3)  # of 32 registers: 24 sums, 3 of b, one of a
    elif x86 and "vfmadd" in text:
        lanes, tile = 8, (4, 3)  # of 16 registers: 12 sums, 3 of b, one of a
    else:
        lanes, tile = 4, (8, 2) if arm else (4, 2)
    return Target(
        lanes=lanes,
        tile=tile,
        rounding_operand=lanes == 16,
        half_arithmetic=lanes == 16 and "vaddph" in text,
        half_conversion=arm or "vcvtps2ph" in text,
        control="mxcsr" if x86 else "fpcr" if arm else "",
    )
