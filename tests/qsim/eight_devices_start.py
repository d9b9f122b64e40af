"""Run by ``test_start``: what eight devices start from and what they are fed, and how much of it was ever whole."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
from small_runs import assert_same_trees, corpus_of_numbers

from qsim import model, position
from qsim.config import DataConfig, ModelConfig, RunConfig
from qsim.devices import Devices, find_devices
from qsim.mesh import parse_mesh
from qsim.model import Part, initial_parameters
from qsim.policy import parse_policy
from qsim.position import batch_of, start

# The token table has rows that eight devices do not divide.
SMALL = RunConfig(
    seed=3,
    model=ModelConfig(layers=2, hidden=16, heads=4, length=12, vocabulary=52),
    data=DataConfig(batch_size=16, order="epochs"),
)
LARGE = RunConfig(model=ModelConfig(layers=4, hidden=512, heads=4, length=32, vocabulary=64))
MEGABYTE = 1 << 20
POLICY = parse_policy("fp16")
asked: list[int] = []


def counted(config: ModelConfig, seed: int, name: str, part: Part) -> np.ndarray:
    made = model.initial_part(config, seed, name, part)
    asked.append(made.size)
    return unaligned(made)


def unaligned(x: np.ndarray) -> np.ndarray:
    """A copy at an address at which a CPU device does not take the host's memory for its own."""
    memory = np.empty(x.nbytes + 128, np.uint8)
    start = 68 - memory.ctypes.data % 64
    copy = memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


def on_mesh(config: RunConfig, mesh: str) -> Devices:
    return find_devices(config, POLICY, "jax", parse_mesh(mesh))


def check_bits(mesh: str) -> None:
    """Those of the whole start, laid out as a step takes it, of which no more was asked than the parts."""
    devices, whole = on_mesh(SMALL, mesh), initial_parameters(SMALL.model, SMALL.seed)
    asked.clear()
    state = start(SMALL, POLICY, devices=devices).state
    assert_same_trees(state["parameters"], whole)
    laid_out = devices.place(whole, "parameters")
    sizes = []
    for name, w in state["parameters"].items():
        assert w.sharding == laid_out[name].sharding
        for moment in (state["first"][name], state["second"][name]):
            assert moment.sharding == w.sharding
            assert not np.asarray(moment).any()
        parts = {str(shard.index): shard.data.size for shard in w.addressable_shards}
        sizes += parts.values()
    assert sorted(asked) == sorted(sizes)


def check_memory(mesh: str) -> None:
    """The host's arrays at their peak: the largest part, its copy here, and 4 MB for draws."""
    whole = sum(4 * math.prod(shape) for shape in model.parameter_shapes(LARGE.model).values())
    devices = on_mesh(LARGE, mesh)
    asked.clear()
    tracemalloc.start()
    start(LARGE, POLICY, devices=devices)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"of {whole / MEGABYTE:.1f} MB the largest part has {4 * max(asked) / MEGABYTE:.1f}, the peak is "
          f"{peak / MEGABYTE:.1f}")  # fmt: skip
    assert peak < 8 * max(asked) + 4 * MEGABYTE < whole / 4


def check_batch(mesh: str, shared_parts: int) -> None:
    """A batch read in parts is the batch that was read whole and laid out; each row was read once."""
    devices = on_mesh(SMALL, mesh)
    corpus = corpus_of_numbers()
    read: list[int] = []

    def rows(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        read.extend(numbers.tolist())
        return batch_of(SMALL, corpus, 9, numbers)

    found = devices.batch(rows, (16, 12), shared_parts)
    for own, expected in zip(found, devices.place(batch_of(SMALL, corpus, 9), "batch", shared_parts), strict=True):
        assert own.sharding == expected.sharding
        assert np.array_equal(own, expected)
    assert sorted(read) == list(range(16))


if __name__ == "__main__":
    position.initial_part = counted
    zeros = position._zeros
    position._zeros = lambda part: unaligned(zeros(part))
    for mesh in ("data=8", "data=4,model=2", "data=2,model=4", "model=4"):
        check_bits(mesh)
    check_memory("data=4,model=2")
    for mesh, shared_parts in (("data=8", 1), ("data=4,model=2", 1), ("data=4,model=2", 2), ("data=2", 4)):
        check_batch(mesh, shared_parts)
