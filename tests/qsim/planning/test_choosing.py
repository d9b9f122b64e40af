"""The way a run is spread over a machine, and the sentence where there is none."""

from __future__ import annotations

from typing import Any

import pytest
from small_runs import assert_sentence

from qsim.config import ConfigError, RunConfig, override, preset
from qsim.devices import check_division, check_memory
from qsim.memory import GIB, counted
from qsim.mesh import Mesh
from qsim.planning.choosing import ROOM, choose
from qsim.planning.machines import parse_machine
from qsim.planning.plan import MACHINES, PRESETS
from qsim.policy import POLICIES

NATIVE = POLICIES["native-bf16"]


def planned(name: str) -> RunConfig:
    return override(preset(name), "data.accumulation", 1)


@pytest.mark.parametrize("name", PRESETS)
def test_every_size_has_a_machine_that_it_fits(name: str) -> None:
    """The mesh has all devices, divides the run, and leaves room; the bits' own settings are as they were."""
    machine = parse_machine(MACHINES[name])
    way = choose(planned(name), NATIVE, machine)
    assert way.mesh.count == machine.devices
    check_division(way.config, NATIVE, way.mesh)
    assert way.bytes == sum(counted(way.config, NATIVE, mesh=way.mesh, hardware=True).values())
    assert way.bytes <= ROOM * machine.chip.memory
    assert way.config.model.parameters == preset(name).model.parameters
    assert way.config.data.batch_size == 256


def test_what_is_given_is_not_chosen() -> None:
    way = choose(
        planned("6b"), NATIVE, parse_machine("v4-128"), mesh=Mesh(data=16, model=4), accumulation=4, recompute=True
    )
    assert (way.mesh, way.config.data.accumulation) == (Mesh(data=16, model=4), 4)
    assert way.config.data.reduction_chunks == 64


def test_activations_are_kept_where_they_fit() -> None:
    assert not choose(planned("125m"), NATIVE, parse_machine("h100-8")).config.model.recompute


def test_too_large_a_model_is_refused_with_the_figures() -> None:
    with pytest.raises(ConfigError) as error:
        choose(planned("52b"), NATIVE, parse_machine("v4-8"))
    assert_sentence(error.value, "52,402,077,696 parameters", "GiB", "v4-8", "32.00 GiB", "larger machine")


@pytest.mark.parametrize(
    ("mesh", "changes", "parts"),
    [
        (Mesh(data=4, model=3), {}, ("model=3", "model.heads 32")),
        (Mesh(data=4, model=64), {}, ("model=64", "model.heads 32")),
        (Mesh(data=3), {}, ("data.reduction_chunks", "data.batch_size 256")),
        (Mesh(data=4, model=32), {"model.vocabulary": 51_201}, ("model=32", "model.vocabulary 51201")),
    ],
)
def test_meshes_that_do_not_divide_the_model(mesh: Mesh, changes: dict[str, Any], parts: tuple[str, ...]) -> None:
    config = planned("6b")
    for key, value in changes.items():
        config = override(config, key, value)
    with pytest.raises(ConfigError) as error:
        choose(config, NATIVE, parse_machine("v4-128"), mesh=mesh)
    assert_sentence(error.value, *parts)


def test_a_device_that_reports_too_little_memory_is_refused() -> None:
    config = planned("410m")
    needed = sum(counted(config, NATIVE, hardware=True).values())
    check_memory(config, NATIVE, Mesh(), None, hardware=True)
    check_memory(config, NATIVE, Mesh(), needed, hardware=True)
    with pytest.raises(ConfigError) as error:
        check_memory(config, NATIVE, Mesh(), needed - 1, hardware=True)
    assert_sentence(error.value, f"{needed / GIB:.2f} GiB", "409,266,176 parameters", "data.accumulation (now 1)")
