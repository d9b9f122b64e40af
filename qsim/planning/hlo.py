"""What an optimised program of XLA does, read off its text: roundings, products, and what moves between devices."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from qsim.named_sites import ROUNDING

INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_TARGET = re.compile(r'custom_call_target="(\w+)"')
_CALLED = re.compile(r"calls=%?([\w.\-]+)")
_NAME = re.compile(r'op_name="([^"]*)"')
_TYPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[")
OPERAND = re.compile(r"%([\w.\-]+)")
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
    """opcode: of a custom call its target.  types: element types of the result, several of a tuple.

    scope: the names that it was traced under.  root_of: the computation whose result it is.  calls: the one that a
    fusion computes.
    """

    name: str
    opcode: str
    types: tuple[str, ...]
    operands: tuple[str, ...]
    scope: str
    root_of: str | None
    calls: str | None


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
            if begun := COMPUTATION.match(line):
                computation = begun[1]
            elif found := INSTRUCTION.match(line):
                root, name, kind, opcode, rest = found.groups()
                scope, called, target = _NAME.search(rest), _CALLED.search(rest), _TARGET.search(rest)
                yield Instruction(
                    name=name,
                    opcode=target[1] if target else opcode,
                    types=tuple(_TYPE.findall(kind)),
                    operands=tuple(OPERAND.findall(rest.split(", metadata=")[0].split("), ")[0])),
                    scope=scope[1] if scope else "",
                    root_of=computation if root else None,
                    calls=called[1] if called else None,
                )

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
            if one.opcode in _PRODUCTS
        )

    @cached_property
    def collectives(self) -> Counter[tuple[str, str]]:
        """How often (operation, element type) moves between devices.

        A sum of arrays that are zero but for what one device writes into them is a gathering, as a TPU's compiler
        makes some; it is named so.
        """
        writing = {one.root_of for one in self.instructions if one.root_of and one.opcode == _WRITTEN_INTO}
        written = {one.name for one in self.instructions if one.opcode == _WRITTEN_INTO or one.calls in writing}
        for one in self.instructions:  # an operand stands before what reads it
            if one.opcode in _PASSING and one.operands and written.issuperset(one.operands):
                written.add(one.name)
        found: Counter[tuple[str, str]] = Counter()
        for one in self.instructions:
            operation = one.opcode.removesuffix("-start")
            if operation == "all-reduce" and one.operands and written.issuperset(one.operands):
                operation = BY_SUM
            if operation in (*COLLECTIVES, BY_SUM):
                found.update((operation, kind) for kind in _moved(one.types))
        return found


def _moved(types: tuple[str, ...]) -> set[str]:
    """Element types that an operation moves: words of a tuple that has floats are its own."""
    floats = {kind for kind in types if kind[0] in "bf"}
    return floats or set(types)
