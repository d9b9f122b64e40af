"""Run by ``test_foreign``: large products on eight CPU devices at once, against the bits of the Numba back end."""

from __future__ import annotations

from unittest.mock import patch

import jax
import numpy as np
from bits_assertions import assert_same_bits
from jax.sharding import AxisType, Mesh, PartitionSpec

import precision as pr
from precision.backends.numba_.compilation import Kernel

P = PartitionSpec
SIZE, TIMES = 512, 4


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    return pr.matmul(a, b, inputs="fp32")


def check(mesh: Mesh, axes: tuple[P, P, P]) -> None:
    """Several times in a row, a device's part after the other in one computation too."""
    rng = np.random.default_rng(61)
    a, b = (rng.normal(size=(SIZE, SIZE)).astype(np.float32) * np.float32(2.0**-62) for _ in range(2))
    expected = pr.matmul(a, b, inputs="fp32", backend="numba")
    assert np.any((expected != 0) & (np.abs(expected) < 2.0**-126)), "subnormal sums are among them"
    sharded = jax.shard_map(product, mesh=mesh, in_specs=axes[:2], out_specs=axes[2])
    run = jax.jit(lambda a, b: (sharded(a, b), sharded(b, a)))
    for _ in range(TIMES):
        first, second = run(a, b)
        assert_same_bits(first, expected)
        assert_same_bits(second, pr.matmul(b, a, inputs="fp32", backend="numba"))


def rows(mesh: Mesh) -> None:
    check(mesh, (P("d"), P(), P("d")))


def columns(mesh: Mesh) -> None:
    check(mesh, (P(), P(None, "d"), P(None, "d")))


def workers(mesh: Mesh) -> None:
    """Parallel kernels from eight threads at once: not what is chosen, and right all the same."""
    with patch.object(jax, "local_device_count", return_value=1), patch.object(Kernel, "PARALLEL_FROM", 1):
        jax.clear_caches()
        text = jax.jit(product).lower(*[np.zeros((SIZE, SIZE), np.float32)] * 2).as_text()
        assert "_parallel(" in text
        rows(mesh)


if __name__ == "__main__":
    devices = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    for run in (rows, columns, workers):
        run(devices)
        print(run.__name__)
