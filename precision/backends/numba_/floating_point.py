"""The floating-point control register of the thread a kernel runs on.

XLA's CPU threads read and write subnormals as zero; a kernel that XLA calls sets the default first (nearest even,
subnormals kept, nothing trapped) and puts back what it found.  x86-64: MXCSR, whose bits 15 and 6 are "flush to zero"
and "denormals are zero"; AArch64: FPCR, whose bit 24 is "flush to zero".  Elsewhere both functions do nothing.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_MACHINE = platform.machine().lower()
_X86 = _MACHINE in ("x86_64", "amd64")
_ARM = _MACHINE in ("aarch64", "arm64")
DEFAULT = 0x1F80 if _X86 else 0  # all exceptions masked

_INT32, _INT64, _POINTER = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()


def _declared(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    module = builder.module
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)


def _read(builder: Any) -> Any:
    if _ARM:
        return builder.call(_declared(builder, "llvm.aarch64.get.fpcr", _INT64), [])
    if not _X86:
        return _INT64(0)
    slot = builder.alloca(_INT32)
    builder.call(
        _declared(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), _POINTER), [builder.bitcast(slot, _POINTER)]
    )
    return builder.zext(builder.load(slot), _INT64)


def _write(builder: Any, control: Any) -> None:
    if _ARM:
        builder.call(_declared(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), _INT64), [control])
    elif _X86:
        slot = builder.alloca(_INT32)
        builder.store(builder.trunc(control, _INT32), slot)
        builder.call(
            _declared(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), _POINTER), [builder.bitcast(slot, _POINTER)]
        )


@intrinsic
def get_control(_context: Any) -> Any:
    """The register, int64."""

    def build(_context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        return _read(builder)

    return types.int64(), build


@intrinsic
def set_control(_context: Any, control: Any, address: Any) -> Any:  # noqa: ARG001
    """Sets the register; returns the address.

    The compiler knows no order between this register and float operations.  The address comes out of an empty
    assembly statement that may touch all memory: stores made before it stay before it, and what is read through it
    is computed on afterwards.
    """

    def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        control, address = args
        same = ir.FunctionType(_INT64, [_INT64])
        address = builder.asm(same, "", "=r,0,~{memory}", [address], side_effect=True)
        _write(builder, control)
        return builder.asm(same, "", "=r,0,~{memory}", [address], side_effect=True)

    return types.int64(types.int64, types.int64), build
