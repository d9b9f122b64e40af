"""What an optimised program of XLA does, read off its text: roundings, products, and what moves between devices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from qsim.named_sites import ROUNDING

_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_TARGET = re.compile(r'custom_call_target="([\w$.]+)"')
_CALLED = re.compile(r"calls=%?([\w.\-]+)")
_NAME = re.compile(r'op_name="([^"]*)"')
_TYPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[")
_OPERAND = re.compile(r"%([\w.\-]+)")
_TAG = re.compile(rf"([\w.]+)/{ROUNDING}\.(\d+)(?:/|$)")
_PRODUCTS = ("dot", "convolution", "__cublas$gemm", "__cublas$lt$matmul")
BY_SUM = "all-gather by all-reduce"
_WRITTEN_INTO = "dynamic-update-slice"
# what moves an array in the memories of a device: asynchronously, in slices that are then taken together
_PASSING = ("bitcast", "copy", "copy-done", "copy-start", "slice-start", "slice-done", "ConcatBitcast")
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)
# of each format the operation that a rounding to it cannot do without, in hardware arithmetic
_SIGNATURES = {"bf16": ("and", "reduce-precision"), "fp16": ("subtract", "round-nearest-even")}


class Instruction(NamedTuple):
    """kind: type of the result, as it is written.  attributes: what stands behind the operands.

    target: of a custom call.  scope: the names that it was traced under.  computation: the one that it stands in, and
    is_root whether it is its result.
    """

    name: str
    opcode: str
    kind: str
    operands: tuple[str, ...]
    attributes: str
    target: str
    scope: str
    computation: str
    is_root: bool

    @property
    def types(self) -> tuple[str, ...]:
        """Element types of the result, several of a tuple."""
        return tuple(_TYPE.findall(self.kind))

    @property
    def fused(self) -> str:
        """The computation that a fusion is of."""
        return _first(_CALLED, self.attributes)


class Product(NamedTuple):
    """A matrix product: element types of operands and result, and where it was traced."""

    operands: tuple[str, ...]
    result: str
    scope: str


@dataclass(frozen=True)
class Program:
    """The text of an optimised module."""

    text: str

    @cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        return tuple(self._read())

    def _read(self) -> Iterator[Instruction]:
        computation = ""
        for line in self.text.splitlines():
            if begun := _COMPUTATION.match(line):
                computation = begun[2]
            elif found := _INSTRUCTION.match(line):
                root, name, kind, opcode, rest = found.groups()
                operands, _, attributes = rest.partition("), ")
                yield Instruction(
                    name=name,
                    opcode=opcode,
                    kind=kind,
                    operands=tuple(_OPERAND.findall(operands)),
                    attributes=attributes,
                    target=_first(_TARGET, attributes),
                    scope=_first(_NAME, attributes),
                    computation=computation,
                    is_root=bool(root),
                )

    @cached_property
    def entry(self) -> str:
        """Name of the computation that the program begins with."""
        begun = (_COMPUTATION.match(line) for line in self.text.splitlines() if line.startswith("ENTRY "))
        return next(found[2] for found in begun if found)

    @cached_property
    def scopes(self) -> frozenset[str]:
        """Every name of a scope that some instruction has."""
        return frozenset(name for one in self.instructions for name in one.scope.split("/"))

    def roundings(self, formats: dict[tuple[str, int], str]) -> set[tuple[str, int]]:
        """Those of the roundings asked for, (key, N) by format, whose own operation is in the program."""
        found = set()
        for one in self.instructions:
            for key, number in _TAG.findall(one.scope):
                place = key, int(number)
                if one.opcode in _SIGNATURES.get(formats.get(place, ""), ()):
                    found.add(place)
        return found

    @cached_property
    def products(self) -> tuple[Product, ...]:
        types = {one.name: one.types for one in self.instructions}
        return tuple(
            Product(tuple(types[name][0] for name in one.operands[:2]), one.types[0], one.scope)
            for one in self.instructions
            if (one.target or one.opcode) in _PRODUCTS
        )

    @cached_property
    def collectives(self) -> Counter[tuple[str, str]]:
        """How often (operation, element type) moves between devices.

        A sum of arrays that are zero but for what one device writes into them is a gathering, as a TPU's compiler
        makes some; it is named so.
        """
        writing = {one.computation for one in self.instructions if one.is_root and one.opcode == _WRITTEN_INTO}
        written = {one.name for one in self.instructions if one.opcode == _WRITTEN_INTO or one.fused in writing}
        for one in self.instructions:  # an operand stands before what reads it
            if (one.target or one.opcode) in _PASSING and one.operands and written.issuperset(one.operands):
                written.add(one.name)
        found: Counter[tuple[str, str]] = Counter()
        for one in self.instructions:
            operation = one.opcode.removesuffix("-start")
            if operation == "all-reduce" and one.operands and written.issuperset(one.operands):
                operation = BY_SUM
            if operation in (*COLLECTIVES, BY_SUM):
                found.update((operation, kind) for kind in _moved(one.types))
        return found


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def _moved(types: tuple[str, ...]) -> set[str]:
    """Element types that an operation moves: words of a tuple that has floats are its own."""
    floats = {kind for kind in types if kind[0] in "bf"}
    return floats or set(types)
