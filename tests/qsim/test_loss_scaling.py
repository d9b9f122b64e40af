"""What FP16 loses of gradients without a loss scale, and what dynamic scaling brings back: exact counts of a run."""

from __future__ import annotations

import pytest
from small_runs import figures, small_run

from qsim.policy import POLICIES
from qsim.replay import replay
from qsim.report.recorded import Run, read_run
from qsim.runs import RunFolder

GRADIENTS = ("dgrad", "wgrad")
SMALLEST_NORMAL, HALF_OF_SMALLEST = -14, -25  # exponents in FP16


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return small_run(tmp_path_factory.mktemp("loss_scaling") / "base")


@pytest.fixture(scope="module")
def runs(base: RunFolder) -> dict[str, Run]:
    names = ("fp16-noscale", "fp16")
    return {name: read_run(replay(base, POLICIES[name], base.path.parent / name).path) for name in names}


def gradients(run: Run, *counters: str) -> tuple[int, ...]:
    return tuple(run.total(counter, GRADIENTS) for counter in counters)


def test_dynamic_scaling_brings_back_every_gradient_that_underflowed(runs: dict[str, Run]) -> None:
    """Seed 0, steps 1, 3 and 6: 1 in 212 nonzero gradients underflowed; at a scale of 2^16 none does."""
    assert gradients(runs["fp16-noscale"], "underflowed", "nonzero") == (1_187, 251_059)
    assert gradients(runs["fp16"], "underflowed", "nonzero") == (0, 251_247)
    assert set(runs["fp16"].scales.values()) == {2.0**16}
    assert runs["fp16"].skipped == []


def test_and_565_times_fewer_lose_precision_as_subnormals(runs: dict[str, Run]) -> None:
    assert gradients(runs["fp16-noscale"], "became_subnormal") == (91_565,)
    assert gradients(runs["fp16"], "became_subnormal") == (162,)


def test_what_underflowed_earlier_arrives_as_zero(runs: dict[str, Run]) -> None:
    """As many values are rounded in either run; 188 more of them are zero by then without a scale."""
    count, zeros = gradients(runs["fp16-noscale"], "count", "zero")
    assert gradients(runs["fp16"], "count", "zero") == (count, zeros - 188)


def test_the_exponents_explain_the_counts(runs: dict[str, Run]) -> None:
    """Zero below 2^-25, half of FP16's smallest value, and at that tie; times 2^16 no gradient is so small."""
    exponents = {name: run.exponents("dgrad") + run.exponents("wgrad") for name, run in runs.items()}
    unscaled, scaled = exponents["fp16-noscale"], exponents["fp16"]
    below = sum(n for e, n in unscaled.items() if e < HALF_OF_SMALLEST)
    assert below <= 1_187 <= below + unscaled[HALF_OF_SMALLEST]
    assert min(scaled) > HALF_OF_SMALLEST
    below = sum(n for e, n in scaled.items() if e < SMALLEST_NORMAL)
    assert below - scaled[SMALLEST_NORMAL - 1] <= 162 <= below


def test_numpy_counts_the_same(base: RunFolder, runs: dict[str, Run]) -> None:
    for name, run in runs.items():
        again = replay(base, POLICIES[name], base.path.parent / f"numpy-{name}", executor="numpy")
        assert read_run(again.path).sites == run.sites
        assert figures(again) == figures(RunFolder.open(run.folder))
