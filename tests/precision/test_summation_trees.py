"""The order of additions of every accumulator, recovered from its outputs, is that of its definition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from executors import EXECUTORS, Executor
from summation_tree import START, Node, Scale, Tree, chain, lost, neighbours, node, runs, tree

import precision as pr

COUNT = 37
LEAVES = range(COUNT)
WIDE = Scale((2.0**15, 2.0**15), (2.0**-5, 2.0**-5))  # M = 2^30, a unit 2^-10
HALF = Scale((2.0**15, 1), (2.0**-9, 2.0**-9))  # within fp16: 2^15 and 2^-18
WHOLE = Scale((127, 127), (1, 1))


def pairs_odd_first() -> Tree:
    return chain([k] for k in sorted(LEAVES, key=lambda k: (k // 2, -k)))


def tiles_of_two_chains() -> Tree:
    """Of each 32: even and odd k apart, from +0."""
    tiles = (node(chain([[k] for k in tile[q::2]], None) for q in (0, 1)) for tile in runs(LEAVES, 32))
    return chain([tile] for tile in tiles)


def tiles_of_two_groups() -> Tree:
    """Of each 32: sixteen at once, then sixteen and those."""
    tiles = (
        chain([[k for k in tile if k % 4 in pair] for pair in ((0, 1), (2, 3))], None) for tile in runs(LEAVES, 32)
    )
    return chain([tile] for tile in tiles)


def fused(length: int) -> Callable[[], Tree]:
    return lambda: chain(runs(LEAVES, length))


def trees_of(length: int) -> Callable[[], Tree]:
    """s and the neighbours' tree of so many."""
    return lambda: chain([neighbours(block)] for block in runs(LEAVES, length))


def exactly(length: int) -> Callable[[], Tree]:
    return lambda: chain(runs(LEAVES, length), exact=True)


def in_turn() -> Tree:
    return chain([k] for k in LEAVES)


def in_runs() -> Tree:
    """Eight runs of ceil(37 / 8) = 5, the last of 2."""
    return node([START, neighbours([chain([[k] for k in run], None) for run in runs(LEAVES, 5)])])


TREES: dict[tuple[str, str], Callable[[], Tree]] = {
    ("fp32_sequential", "fp16"): in_turn,
    ("fp32_fma", "fp16"): in_turn,
    ("fp32_mul_add", "fp16"): in_turn,
    ("fp32_pairwise", "fp16"): lambda: node([START, neighbours(LEAVES)]),
    ("fp32_split8", "fp16"): in_runs,
    ("fp16_fma", "fp16"): in_turn,
    ("fp16_mul_add", "fp16"): in_turn,
    ("bf16_fma", "bf16"): in_turn,
    ("bf16_mul_add", "bf16"): in_turn,
    ("kahan", "fp16"): in_turn,
    ("exact", "fp16"): exactly(COUNT),
    ("int32", "int8"): exactly(COUNT),
    ("v100", "fp16"): fused(4),
    ("a100", "fp16"): fused(8),
    ("a100", "tf32"): fused(4),
    ("ada", "bf16"): fused(8),
    ("ada", "tf32"): fused(4),
    ("h100", "bf16"): fused(16),
    ("h100", "tf32"): fused(8),
    ("b200", "fp16"): fused(16),
    ("b200", "tf32"): fused(8),
    ("b200", "e5m2"): fused(32),
    ("v100_fp16", "fp16"): fused(4),
    ("a100_fp16", "fp16"): fused(8),
    ("ada_fp16", "fp16"): fused(8),
    ("h100_fp16", "fp16"): fused(16),
    ("b200_fp16", "fp16"): fused(16),
    ("h100_fp8_wgmma", "e5m2"): fused(32),
    ("h100_fp8_mma", "e5m2"): tiles_of_two_groups,
    ("ada_fp8", "e5m2"): fused(16),
    ("cdna1", "fp16"): exactly(4),
    ("cdna1", "bf16"): exactly(2),
    ("cdna2", "fp16"): trees_of(4),
    ("cdna2", "bf16"): trees_of(4),
    ("cdna3", "fp16"): fused(8),
    ("cdna3", "tf32"): fused(4),
    ("avx512_bf16", "bf16"): pairs_odd_first,
    ("amx_bf16", "bf16"): tiles_of_two_chains,
    ("amx_fp16", "fp16"): tiles_of_two_chains,
    ("avx512_fp16", "fp16"): in_turn,
    ("arm_bfdot", "bf16"): trees_of(2),
    ("tpu_mxu_nominal", "bf16"): in_turn,
}
HALF_SUMS = ("fp16_fma", "fp16_mul_add", "avx512_fp16", *(f"{chip}_fp16" for chip in ("v100", "a100", "ada", "h100")))

# JAX compiles for each, and agrees with the others in every bit elsewhere: one of each shape of tree
COMPILED = ("fp32_pairwise", "fp32_split8", "h100_fp16", "cdna2", "avx512_bf16")
PROBED = [(b, *pair) for b in EXECUTORS for pair in TREES if b.name != "jax" or pair[0] in COMPILED]


def with_start(a: object, b: object, c: object, **static: object) -> object:
    return pr.matmul(a, b, c=c, **static)


def measured(backend: Executor, name: str, inputs: str, scale: Scale) -> dict[frozenset, int]:
    def matmul(*operands: np.ndarray) -> np.ndarray:
        return backend.call(with_start, *operands, accumulator=name, inputs=inputs)

    return lost(matmul, COUNT, scale, np.int8 if inputs == "int8" else np.float32)


def recovered(backend: Executor, name: str, inputs: str) -> Tree:
    scale = WHOLE if inputs == "int8" else HALF if name in (*HALF_SUMS, "b200_fp16") else WIDE
    return tree([START, *LEAVES], measured(backend, name, inputs, scale))


@pytest.mark.thinned(0.12)
@pytest.mark.parametrize(("backend", "name", "inputs"), PROBED, ids=str)
def test_recovered_order(backend: Executor, name: str, inputs: str) -> None:
    assert recovered(backend, name, inputs) == TREES[name, inputs]()


def test_every_order_is_recovered() -> None:
    assert {name for name, _ in TREES} == set(pr.ACCUMULATORS) - {"native"}


def test_shapes_of_the_trees() -> None:
    """By eye, for a few."""
    assert chain([[0], [1]]) == Node(frozenset({Node(frozenset({START, 0})), 1}))
    assert neighbours([0, 1, 2]) == Node(frozenset({Node(frozenset({0, 1})), 2}))
    assert len(fused(16)().children) == 6, "37 = 16 + 16 + 5"
    assert exactly(COUNT)() == Node(frozenset([START, *LEAVES]), True)


def test_what_compensation_shows(backend: Executor) -> None:
    """Beside an M that no correction can stand next to, Kahan's sum is the chain it runs along.  Beside 2^24 units
    the corrections bring back the units to within two, whatever lies between +M and -M: outputs show no order."""
    near = Scale((2.0**9, 2.0**5), (2.0**-5, 2.0**-5))
    assert set(measured(backend, "kahan", "fp16", near).values()) == {0, 1, 2}
    assert max(measured(backend, "fp32_sequential", "fp16", near).values()) == COUNT + 1
