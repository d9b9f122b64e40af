"""Machines as compilers know them that compile for what is not here.

libtpu knows TPUs by name.  XLA's compiler for NVIDIA GPUs is told of a device what it would have asked the driver
for: the text of XLA's ``GpuTargetConfigProto``.  Sources of the figures: NVIDIA's data sheets and architecture papers
of A100, H100, H200 and B200 (processors, caches, clocks, bandwidths), the CUDA C++ Programming Guide's table of
compute capabilities (limits of threads, registers and shared memory).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from precision.backends import get_backend
from qsim.planning.machines import CHIPS, Chip

KIB = 1 << 10


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """capability: what code is made for.  processors: streaming multiprocessors.  lanes: float32 operations that one
    begins a cycle.  bandwidth: bytes a second.  cache: bytes of the second level.  shared: bytes of a processor's
    shared memory.  clock: GHz."""

    capability: tuple[int, int]
    processors: int
    lanes: int
    bandwidth: int
    cache: int
    shared: int
    clock: float


GPUS = {
    "a100": Gpu(
        capability=(8, 0), processors=108, lanes=64, bandwidth=2039 * 10**9, cache=40 * KIB**2, shared=164 * KIB,
        clock=1.41,
    ),
    "h100": Gpu(
        capability=(9, 0), processors=132, lanes=128, bandwidth=3350 * 10**9, cache=50 * KIB**2, shared=228 * KIB,
        clock=1.98,
    ),
    "h200": Gpu(
        capability=(9, 0), processors=132, lanes=128, bandwidth=4800 * 10**9, cache=50 * KIB**2, shared=228 * KIB,
        clock=1.98,
    ),
    "b200": Gpu(
        capability=(10, 0), processors=148, lanes=128, bandwidth=8000 * 10**9, cache=126 * KIB**2, shared=228 * KIB,
        clock=1.965,
    ),
}  # fmt: skip
_TARGET = """
platform_name: "CUDA"
device_description_str: "NVIDIA {name}"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 9 }}
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  core_count: {processors}
  fpus_per_core: {lanes}
  clock_rate_ghz: {clock}
  memory_bandwidth: {bandwidth}
  device_memory_size: {memory}
  l2_cache_size: {cache}
  shared_memory_per_core: {shared}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {optional}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
"""


def described(name: str) -> Any:
    """What ``jax_.devices.make_mesh`` takes of a ``Machine.topology``: ``v4:2x2x1``, ``h100:1x8``."""
    chip = CHIPS[name.partition(":")[0]]
    target = "" if chip.platform == "tpu" else target_of(chip)
    return get_backend("jax").devices.Topology(platform=chip.platform, name=name, target=target)


def target_of(chip: Chip) -> str:
    """A GPU in the words of XLA.  A block may have a processor's shared memory but for one KiB."""
    gpu = GPUS[chip.name]
    major, minor = gpu.capability
    return _TARGET.format(
        **vars(gpu), name=chip.name.upper(), major=major, minor=minor, memory=chip.memory, optional=gpu.shared - KIB
    )
