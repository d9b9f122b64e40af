"""The recorded table of FP16's attribution: its verdicts, and what its description says of it."""

from __future__ import annotations

import csv
from pathlib import Path

from experiments.fp16_attribution import BLAMED, STEP, named, row_of, verdict
from qsim.attribution import Attribution, Cost, Interval

RESULTS = Path(__file__).resolve().parents[2] / "experiments" / "results"
NOTHING = Interval(mean=None, low=None, high=None)


def table() -> list[dict[str, str]]:
    with (RESULTS / "fp16_attribution.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def cost(unit: str, size: float, underflowed: int) -> Cost:
    error = Interval(mean=size, low=size, high=size)
    return Cost(
        unit=unit,
        way="alone",
        loss=error,
        gradient=error,
        update=NOTHING,
        underflowed=underflowed,
        overflowed=0,
        not_finite=0,
    )


def recorded(policy: str) -> Attribution:
    """As far as a verdict reads it."""
    rows = [row for row in table() if row["policy"] == policy and row["way"] == "alone" and ":" not in row["unit"]]
    whole, *alone = (cost(row["unit"], float(row["gradient_mean"]), int(row["underflowed"])) for row in rows)
    return Attribution(
        base="fp32",
        other=policy,
        step=STEP,
        batches=8,
        scale=1.0,
        whole=whole,
        alone=tuple(alone),
        all_but=(),
        parts=(),
    )


def test_the_recorded_verdicts() -> None:
    assert {policy: named(recorded(policy)) for policy in BLAMED} == {
        "fp16-noscale": ["logits", "loss", "parameters"],
        "fp16-ln16": ["layernorm_1", "parameters", "logits", "residual"],
        "fp16-pure": ["logits", "mlp_up", "mlp_down", "gelu"],
    }
    assert all(verdict(recorded(policy)).outcome == "not reproduced" for policy in BLAMED)


def test_the_last_activations_lose_most_without_a_loss_scale() -> None:
    found = recorded("fp16-noscale")
    lost = {one.unit: one.underflowed for one in found.alone}
    assert (found.whole.underflowed, lost["loss"], lost["scores"]) == (523_449, 463_421, 21_980)
    assert min(one.size for one in found.alone if one.unit in ("logits", "loss")) > 0.95 * found.whole.size


def test_the_rule_can_find_what_is_claimed() -> None:
    found = recorded("fp16-noscale")
    scores = cost("scores", 1.0, 1)
    told = verdict(Attribution(**(vars(found) | {"alone": (scores, *found.alone)})))
    assert str(told).startswith("reproduced: fp16-noscale")
    assert row_of(found, scores)["update_mean"] == ""
