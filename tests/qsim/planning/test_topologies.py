"""What compilers are told of devices that are not here."""

from __future__ import annotations

import re

import pytest

from qsim.planning.machines import CHIPS
from qsim.planning.topologies import GPUS, described, target_of

OF_GPUS = [name for name, chip in CHIPS.items() if chip.platform == "gpu"]


def test_every_gpu_is_described() -> None:
    assert list(GPUS) == OF_GPUS


@pytest.mark.parametrize("name", OF_GPUS)
def test_a_gpu_s_text_has_its_figures_and_every_bracket_closed(name: str) -> None:
    text = target_of(CHIPS[name])
    fields = dict(re.findall(r"(\w+): (\S+)", text))
    gpu = GPUS[name]
    assert int(fields["device_memory_size"]) == CHIPS[name].memory
    assert int(fields["memory_bandwidth"]) == gpu.bandwidth
    assert int(fields["shared_memory_per_core"]) - int(fields["shared_memory_per_block_optin"]) == 1024
    assert text.count("{") == text.count("}") == 4


def test_a_gpu_s_peak_is_what_its_tensor_cores_have_at_its_clock() -> None:
    """bfloat16 operations a processor and cycle: 2,048 of an A100, 4,096 of an H100 and H200, 8,192 of a B200."""
    cycle = {"a100": 2048, "h100": 4096, "h200": 4096, "b200": 8192}
    for name, operations in cycle.items():
        peak = GPUS[name].processors * operations * GPUS[name].clock / 1000
        assert CHIPS[name].tflops == pytest.approx(peak, rel=0.1)


def test_a_topology_is_read_by_its_chip() -> None:
    assert (described("v4:2x2x1").platform, described("v4:2x2x1").target) == ("tpu", "")
    assert described("h100:1x8").platform == "gpu"
    assert "NVIDIA H100" in described("h100:1x8").target
