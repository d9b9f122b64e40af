"""Attribution: cases whose answer is known by construction, hybrids, the smallest set that must stay."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from command_line import Cli
from small_runs import assert_sentence, small_run

from qsim.attribution import Interval, attribute, interval
from qsim.config import ConfigError
from qsim.minimal import minimal
from qsim.policy import POLICIES, Arithmetic
from qsim.rerun import Rerun
from qsim.runs import RunFolder
from qsim.site_policy import SITES
from qsim.units import PARTS, hybrid, parts, units

CHANGES = {"record.statistics_every": 0}
LAYERS = 2
FP32 = POLICIES["fp32"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return small_run(tmp_path_factory.mktemp("attribution") / "base", "fp32", **CHANGES)


def harmless(*rules: tuple[str, object]) -> Arithmetic:
    """Every site another than fp32's, and the same bits: no sum here rounds up from a half to even or to odd.

    Outputs of float32 are rounded to float32, where nearest-away and nearest-even do the same: nothing.
    """
    return FP32.override([("*.*", {"rounding": "nearest_away"}), *rules], layers=LAYERS, name="other")


MORE = [pytest.param(place, marks=pytest.mark.exhaustive) for place in ("mlp_up.fprop", "gelu.dgrad", "loss.dgrad")]


@pytest.mark.parametrize("place", ["softmax.fprop", "layer.1.qkv.wgrad", *MORE])
def test_the_only_site_that_loses_anything_is_first(base: RunFolder, place: str) -> None:
    found = attribute(Rerun(base), harmless((place, {"output": "e5m2"})), batches=1, step=2, stages=1)
    assert len(found.alone) == len(found.all_but) == len(SITES)
    site = place.split(".")[-2]
    first, *others = found.alone
    assert first.unit == site
    assert first.gradient == found.whole.gradient
    assert first.size > 1e-3
    assert all(cost.size == 0 and cost.loss == Interval(mean=0, low=0, high=0) for cost in others)
    assert found.all_but[0].unit == site
    assert found.all_but[0].size == 0
    assert all(cost.gradient == found.whole.gradient for cost in found.all_but[1:])
    (part,) = found.parts
    assert (part.unit, part.gradient) == (f"{site}: output", first.gradient)


@pytest.mark.parametrize(
    ("by", "name"),
    [
        ("layer", "layer.1"),
        pytest.param("pass", "mlp_up.fprop", marks=pytest.mark.exhaustive),
        pytest.param("place", "layer.1.mlp_up", marks=pytest.mark.exhaustive),
    ],
)
def test_units_of_other_sizes(base: RunFolder, by: str, name: str) -> None:
    other = harmless(("layer.1.mlp_up.fprop", {"output": "e5m2"}))
    found = attribute(Rerun(base), other, batches=1, by=by, stages=0)  # type: ignore[arg-type]
    assert found.alone[0].unit == name
    assert [cost.unit for cost in found.alone if cost.size > 0] == [name]


def test_parts_of_a_site(base: RunFolder) -> None:
    """Of a product whose operands alone are narrow, then whose output alone is."""
    for field, part in (("inputs", "input"), ("output", "output"), ("accumulator", "accumulator")):
        value = "h100" if field == "accumulator" else "bf16"
        rule = {field: value} if field != "accumulator" else {"inputs": "fp16", "accumulator": "fp16_fma"}
        other = FP32.override([("mlp_down.fprop", rule)], name="other")
        (unit,) = units(FP32, other, LAYERS)
        assert part in [piece.part for piece in parts(unit, FP32, other)]
    found = attribute(Rerun(base), FP32.override([("mlp_down.fprop", {"output": "bf16"})], name="other"), batches=1)
    assert [cost.unit for cost in found.parts] == ["mlp_down: output"]


def test_parts_of_a_quantizer(base: RunFolder) -> None:
    """One scale a tensor costs more than one a vector; outliers apart no more than with them."""
    rule = ("mlp_down.fprop", {"quantization": "int8_vectorwise"})
    found = attribute(Rerun(base), FP32.override([rule], name="other"), batches=1)
    cost = {one.unit.removeprefix("mlp_down: "): one.size for one in found.parts}
    assert list(cost) == ["quantizer", "quantizer, one scale", "quantizer, outliers apart"]
    assert cost["quantizer, one scale"] > cost["quantizer"] == found.alone[0].size
    assert cost["quantizer, outliers apart"] <= cost["quantizer"]


def test_everything_swapped_is_the_other_policy() -> None:
    """Row by row, and stages; of every preset."""
    for other in POLICIES.values():
        found = units(FP32, other, LAYERS)
        whole = hybrid(FP32, other, found, LAYERS, other.name)
        assert whole == other, other.name
        assert hybrid(FP32, other, [], LAYERS, "fp32").sites == FP32.sites


def test_every_field_of_a_row_is_in_one_part() -> None:
    fields = [field for names in PARTS.values() for field in names]
    row = FP32.site("mlp_up", "dgrad")
    assert sorted(fields) == sorted(row.__dataclass_fields__)


def test_fp16_without_scaling_underflows_where_gradients_are_small(base: RunFolder) -> None:
    """The attention's scores are where the gradients of this model are smallest."""
    found = attribute(Rerun(base), POLICIES["fp16-noscale"], batches=2, stages=0)
    lost = {cost.unit: cost.underflowed for cost in found.alone}
    assert max(lost, key=lambda unit: lost[unit]) == "scores"
    assert found.whole.underflowed > 0


@pytest.mark.exhaustive
def test_a_loss_scale_that_fits_all_batches(base: RunFolder) -> None:
    loud = POLICIES["fp16"].with_(
        name="loud", loss_scaling=POLICIES["fp16"].loss_scaling.__class__(mode="dynamic", initial=2.0**30)
    )
    found = attribute(Rerun(base), loud, batches=2, stages=0)
    assert found.scale < 2.0**30
    assert found.whole.not_finite == 0


def test_intervals() -> None:
    assert interval([None, None]) == Interval(mean=None, low=None, high=None)
    assert interval([2.0, None]) == Interval(mean=2.0, low=2.0, high=2.0)
    values = list(np.random.default_rng(1).normal(5, 1, 200))
    found = interval(values)
    assert found.low is not None
    assert found.high is not None
    half = 1.96 * np.std(values) / np.sqrt(200)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)
    assert found.mean == pytest.approx(np.mean(values))


# The smallest set


def test_the_smallest_set_by_construction(base: RunFolder) -> None:
    """Two sites that each take the loss out of the tolerance by themselves."""
    coarse = {"output": "e5m2"}
    other = harmless(("mlp_up.fprop", coarse), ("attention_out.fprop", coarse))
    found = minimal(Rerun(base), other, tolerance=1e-9, steps=2)
    assert found.kept == ("attention_out", "mlp_up")
    assert found.smallest
    assert found.deviation == 0
    assert found.without > 1e-9
    assert "all smaller sets were tried" in found.search


@pytest.mark.exhaustive
def test_nothing_need_stay(base: RunFolder) -> None:
    found = minimal(Rerun(base), POLICIES["bf16"], tolerance=1.0, steps=2)
    assert (found.kept, found.smallest, found.tried) == ((), True, 1)


@pytest.mark.exhaustive
def test_a_smaller_set_than_the_greedy_one_is_found(base: RunFolder) -> None:
    """Whatever the search says is smallest: all smaller sets do leave the tolerance, tried here one by one."""
    again, other = Rerun(base), POLICIES["fp8"]
    found = minimal(again, other, tolerance=3e-3, steps=2)
    assert found.kept is not None
    assert found.smallest
    names = [unit.name for unit in units(again.policy, other, LAYERS)]
    for chosen in combinations(names, max(len(found.kept) - 1, 0)):
        if found.kept:
            assert minimal_deviation(again, other, chosen) > 3e-3


def minimal_deviation(again: Rerun, other: Arithmetic, kept: tuple[str, ...]) -> float:
    """By a run from the start under the hybrid, in one go."""
    from qsim.position import advance
    from qsim.step import Step

    swapped = [unit for unit in units(again.policy, other, LAYERS) if unit.name not in kept]
    policy = hybrid(again.policy, other, swapped, LAYERS, "hybrid")
    a, b = again.at(0), again.at(0)
    step, largest = Step(again.config, policy, "numba"), 0.0
    for _ in range(2):
        one, another = again.advance(a), advance(b, policy, step, again.inputs(b, policy))
        largest = max(largest, abs(float(one["loss"]) - float(another["loss"])))
    return largest


@pytest.mark.exhaustive
def test_too_few_runs_say_so(base: RunFolder) -> None:
    other = harmless(("mlp_up.fprop", {"output": "e5m2"}), ("attention_out.fprop", {"output": "e5m2"}))
    found = minimal(Rerun(base), other, tolerance=1e-9, steps=1, runs=4)
    assert (found.kept, found.smallest) == (("attention_out", "mlp_up"), False)
    assert "a smaller one may exist" in found.search


# The command


def test_the_command(base: RunFolder, tmp_path: Path, cli: Cli) -> None:
    code, out, _ = cli("attribute", base.path, "--to", "bf16", "--batches", 1, "--out", tmp_path / "found.json")
    assert code == 0
    assert "all but one swapped" in out
    assert (tmp_path / "found.json").is_file()
    found = cli.rows("attribute", base.path, "--to", "bf16", "--minimal", "--tolerance", 1, "--steps", 1)
    assert found["kept"] == []


@pytest.mark.parametrize(
    ("words", "parts_of_it"),
    [
        (("--to", "fp32"), ["nothing else than fp32", "--to"]),
        (("--to", "bf17"), ["bf17"]),
        (("--to", "bf16", "--batches", 7), ["--batches is 7", "1 to 6"]),
        (("--to", "bf16", "--from", 6), ["--from is 6", "0 to 5"]),
        (("--to", "bf16", "--tolerance", 1), ["--tolerance", "--minimal"]),
        (("--to", "bf16", "--minimal", "--tolerance", -1), ["--tolerance is -1", "positive"]),
        (("--to", "bf16", "--minimal", "--steps", 60), ["--steps is 60", "1 to 6"]),
    ],
)
def test_what_is_refused(
    base: RunFolder, tmp_path: Path, cli: Cli, words: tuple[object, ...], parts_of_it: list[str]
) -> None:
    assert_sentence(cli.refused(tmp_path, "attribute", base.path, *words), *parts_of_it)


def test_a_file_that_cannot_be_written_is_refused_before_the_work(base: RunFolder, tmp_path: Path, cli: Cli) -> None:
    words = ("attribute", base.path, "--to", "bf16", "--out")
    assert_sentence(cli.refused(tmp_path, *words, tmp_path), "is a folder")
    assert_sentence(cli.refused(tmp_path, *words, tmp_path / "no" / "x.json"), "make it first")


def test_an_unknown_size_of_unit() -> None:
    with pytest.raises(ValueError, match="row") as error:
        units(FP32, POLICIES["bf16"], LAYERS, "row")  # type: ignore[arg-type]
    assert_sentence(error.value, "site, pass, layer, place")


def test_policies_that_are_the_same(base: RunFolder) -> None:
    with pytest.raises(ConfigError):
        minimal(Rerun(base), FP32, tolerance=1)
