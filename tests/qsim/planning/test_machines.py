"""Machines by name, and what is refused where they are not."""

from __future__ import annotations

import math

import pytest
from small_runs import assert_sentence

from qsim.config import ConfigError
from qsim.planning.machines import CHIPS, Machine, check_present, parse_chip, parse_machine


@pytest.mark.parametrize(
    ("name", "topology"),
    [
        ("v4-8", "v4:2x2x1"),
        ("v4-128", "v4:4x4x4"),
        ("v4-2048", "v4:8x8x16"),
        ("v5e-8", "v5e:2x4"),
        ("h100-8", "h100:1x8"),
    ],
)
def test_machines_are_read(name: str, topology: str | None) -> None:
    machine = parse_machine(name)
    assert (str(machine), machine.topology) == (name, topology)


def test_gpus_of_several_computers_are_as_many_in_each() -> None:
    assert Machine(chip=CHIPS["h100"], devices=64).topology == "h100:8x8"
    assert Machine(chip=CHIPS["h100"], devices=12).topology == "h100:2x6"
    assert Machine(chip=CHIPS["h100"], devices=11).topology is None


def test_tpus_come_in_powers_of_two_and_gpus_by_the_box() -> None:
    assert CHIPS["v4"].sizes == (4, 8, 16, 32, 64, 128, 256, 512, 1024)
    assert CHIPS["h100"].sizes == tuple(range(1, 9))
    for chip in CHIPS.values():
        for size in chip.sizes if chip.platform == "tpu" else ():
            topology = Machine(chip=chip, devices=size).topology
            assert topology is not None
            assert math.prod(map(int, topology.partition(":")[2].split("x"))) == size


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("v4", ("'v4'", "v4-128 or h100-8")),
        ("v3-8", ("'v3'", "v4, v5e")),
        ("v4-12", ("'v4-12'", "v4-8, v4-16, v4-32")),
        ("v4-9", ("'v4-9'", "v4-8, v4-16, v4-32")),
        ("h100-16", ("'h100-16'", "h100-1, h100-2")),
        ("v4-0", ("'v4-0'",)),
    ],
)
def test_machines_that_there_are_not(name: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        parse_machine(name)
    assert_sentence(error.value, *parts)


@pytest.mark.parametrize(
    ("name", "kinds"), [("v4-8", ["TPU v4"] * 4), ("v5e-8", ["TPU v5 lite"] * 8), ("h200-1", ["NVIDIA H200"])]
)
def test_the_machine_itself_is_let_through(name: str, kinds: list[str]) -> None:
    check_present(parse_machine(name), kinds)


@pytest.mark.parametrize(
    ("name", "kinds", "found"),
    [
        ("v4-8", ["cpu"], "1 cpu"),
        ("v4-8", ["TPU v4"] * 3, "3 TPU v4"),
        ("v4-8", ["TPU v4 lite"] * 4, "4 TPU v4 lite"),
        ("h100-2", ["NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"], "1 NVIDIA H100 80GB HBM3, 1 NVIDIA A100"),
    ],
)
def test_other_machines_are_refused(name: str, kinds: list[str], found: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_present(parse_machine(name), kinds)
    assert_sentence(error.value, name, found, "start it there")


def test_unknown_chips_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown chip 'v9'; known: v4"):
        parse_chip("v9")
