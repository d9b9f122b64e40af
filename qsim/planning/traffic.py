"""Bytes that a program moves, counted off its text: through the memory of a GPU, and from device to device.

A fusion is one kernel.  It reads each operand once, of one that it only slices the slices, and writes its results, of
one that it updates in place the update; a loop's body counts as often as it runs.  Caches are not known of, so that a
product of matrices too large for them moves more.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from qsim.planning.hlo import COLLECTIVES, Instruction, Program

_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_BODY = re.compile(r"body=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_TIMES = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_WORKSPACE = re.compile(r"s8\[(\d+)\]\{0\}\)$")  # which a library's product has beside its result
_FREE = ("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all", "partition-id", "iota")
_SLICING = ("dynamic-slice", "slice", "gather")
_UPDATE = "dynamic-update-slice"


@dataclass(frozen=True, kw_only=True)
class Traffic:
    kernels: int
    bytes: int


_Computation = dict[str, Instruction]
_Computations = dict[str, _Computation]


def traffic(program: Program) -> Traffic:
    """Of one GPU."""
    computations = _computations(program)
    moved = [
        (times, times * _moved(computations, lines, one))
        for one, lines, times in _executed(computations, program.entry, 1)
        if one.opcode not in _FREE and not one.opcode.endswith("-done")
    ]
    return Traffic(kernels=sum(times for times, _ in moved), bytes=sum(size for _, size in moved))


def received(program: Program) -> Counter[str]:
    """Bytes of what collectives give one device, by operation and element type.

    A TPU's program does not say how often its loops run: there a body counts once.
    """
    found: Counter[str] = Counter()
    for one, _, times in _executed(_computations(program), program.entry, 1):
        operation = one.opcode.removesuffix("-done")
        if operation in COLLECTIVES:
            for name in {array[0] for array in _ARRAY.findall(one.kind)}:
                found[f"{operation} {name}"] += times * size_of(one.kind, name)
    return found


def _computations(program: Program) -> _Computations:
    """Instructions by name, of each computation."""
    computations: _Computations = defaultdict(dict)
    for one in program.instructions:
        computations[one.computation][one.name] = one
    return computations


def size_of(kind: str, only: str | None = None) -> int:
    """Bytes of a type as programs write it, ``(f32[2,3]{1,0}, bf16[4])``; of the arrays of one element type only."""
    bits = 0
    for name, width, shape in _ARRAY.findall(kind):
        if only in (None, name):
            each = 8 if name == "pred" else int(width)
            bits += each * math.prod(int(n) for n in shape.split(",") if n)
    return bits // 8


def _executed(computations: _Computations, name: str, times: int) -> Iterator[tuple[Instruction, _Computation, int]]:
    """Every instruction that runs, the computation that it stands in, and how often it does."""
    for one in computations[name].values():
        if one.opcode == "while":
            known = _TIMES.search(one.attributes)
            yield from _executed(
                computations, _BODY.findall(one.attributes)[0], times * (int(known[1]) if known else 1)
            )
        elif one.opcode in ("call", "conditional"):
            for branch in _BRANCHES.findall(one.attributes):
                yield from _executed(computations, branch, times)
        else:
            yield one, computations[name], times


def _moved(computations: _Computations, lines: _Computation, one: Instruction) -> int:
    if one.opcode == "fusion":
        body = computations[one.fused]
        return sum(_reads(body)) + sum(_writes(body))
    if one.opcode in _SLICING:
        return 2 * size_of(one.kind)
    if one.opcode == _UPDATE:
        return 2 * size_of(lines[one.operands[1]].kind)
    workspace = _WORKSPACE.search(one.kind) if one.opcode == "custom-call" else None
    written = size_of(one.kind) - (int(workspace[1]) if workspace else 0)
    return written + sum(size_of(lines[name].kind) for name in one.operands if name in lines)


def _reads(body: _Computation) -> Iterator[int]:
    """Of each operand of a fusion."""
    users: dict[str, list[Instruction]] = defaultdict(list)
    for one in body.values():
        for name in set(one.operands):
            users[name].append(one)
    for one in body.values():
        if one.opcode == "parameter":
            using = users[one.name]
            if using and _only(using, _SLICING, one):
                yield sum(size_of(user.kind) for user in using)
            elif not _only(using, (_UPDATE,), one):
                yield size_of(one.kind)


def _only(using: Iterable[Instruction], opcodes: tuple[str, ...], operand: Instruction) -> bool:
    """Whether an operand is but what such operations take a part of."""
    return all(user.opcode in opcodes and user.operands[0] == operand.name for user in using)


def _writes(body: _Computation) -> Iterator[int]:
    """Of each result of a fusion."""
    root = next(one for one in body.values() if one.is_root)
    for result in [body[name] for name in root.operands] if root.opcode == "tuple" else [root]:
        while result.opcode == "bitcast" and result.operands[0] in body:
            result = body[result.operands[0]]
        yield size_of(body[result.operands[1]].kind if result.opcode == _UPDATE else result.kind)
