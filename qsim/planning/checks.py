"""What an optimised program is checked for: every rounding, the types of products, what moves, every site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from precision.formats import parse_format
from qsim.planning.hlo import BY_SUM, Program
from qsim.site_policy import GEMM_SITES
from qsim.step import Step

_INTEGERS = ("pred", "s8", "u8", "s16", "u16", "s32", "u32")
_MOVES = ("all-gather", BY_SUM, "all-to-all")  # what ``precision.backends.jax_.devices`` moves floats by
_XLA = {"bf16": "bf16", "fp16": "f16", "int8": "s8"}


def check(step: Step, program: Program) -> dict[str, Any]:
    """Findings by name, and under ``faults`` a sentence for each that is not as it should be."""
    asked = step.roundings
    survived = program.roundings(asked)
    products = Counter(f"{' x '.join(one.operands)} -> {one.result}" for one in program.products)
    moved = {f"{operation} {kind}": n for (operation, kind), n in sorted(program.collectives.items())}
    silent = sorted(_sites(step) - program.scopes)
    faults = [*_lost(asked, survived), *_wrong_products(step, program), *_wrong_moves(program)]
    faults += [f"no instruction bears the name of {name}" for name in silent]
    return {
        "roundings": {"asked": len(asked), "survived": len(survived), "by_site": _by_site(asked)},
        "products": dict(sorted(products.items())),
        "moves": moved,
        "sites": len(_sites(step)) - len(silent),
        "faults": faults,
    }


def _by_site(places: Iterable[tuple[str, int]]) -> dict[str, int]:
    return dict(sorted(Counter(key for key, _ in places).items()))


def _lost(asked: dict[tuple[str, int], str], survived: set[tuple[str, int]]) -> list[str]:
    lost = _by_site(set(asked) - survived)
    return [f"{n} of {_by_site(asked)[key]} roundings of {key} are not in the program" for key, n in lost.items()]


def _sites(step: Step) -> set[str]:
    """Sites and passes that compute something: the policy's."""
    idle = {
        ("embedding", "dgrad"),
        ("residual", "wgrad"),
        ("gelu", "wgrad"),
        ("softmax", "wgrad"),
        ("loss", "wgrad"),
        ("scores", "wgrad"),
        ("values", "wgrad"),
    }
    return {f"{site}.{direction}" for site, direction, _ in step.policy.sites if (site, direction) not in idle}


def _wrong_products(step: Step, program: Program) -> list[str]:
    allowed = _allowed(step)
    wrong = Counter(one for one in program.products if one.operands not in allowed)
    return [f"a product of {' and '.join(one.operands)} at {one.scope or 'no site'}" for one in wrong]


def _allowed(step: Step) -> set[tuple[str, ...]]:
    """Pairs of element types that the policy's products multiply."""
    allowed = set()
    for _, site, direction, row in step.policy.rows():
        if site in GEMM_SITES:
            names = row.operands(direction) if row.scheme(direction) is None else ("int8", "int8")
            allowed.add(tuple(_XLA.get(parse_format(name).name, "f32") for name in names))
    return allowed | ({("bf16", "bf16"), ("pred", "pred")} if step.recorder else set())  # tables of significands


def _wrong_moves(program: Program) -> list[str]:
    return [
        f"{n} {operation} of {kind}, which no design names"
        for (operation, kind), n in sorted(program.collectives.items())
        if operation not in _MOVES and not (operation == "all-reduce" and kind in _INTEGERS)
    ]
