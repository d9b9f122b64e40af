"""Which sites of FP16 cost what, by swapping one at a time.

Claim (the literature's): what breaks in FP16 training is gradients of activations without a loss scale, and
LayerNorm's statistics and softmax where their arithmetic is FP16 too.

Rule, written before it was run: a site is *named* where it is among the three costliest, swapped alone, by the error
of the gradient, or has the most underflows of all; the claim is *reproduced* where every site it blames for a policy
is named, else what was named instead is said.

    python -m experiments.fp16_attribution experiments/results
    qsim experiment fp16_attribution

Trains ``tiny`` in fp32 on the embedded text, 300 steps, and attributes its steps after 200 to ``fp16-noscale``,
``fp16-ln16`` and ``fp16-pure``, eight batches each.  Writes fp16_attribution.csv: one row a policy, way and unit.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments.drawing import COLOURS, figure
from experiments.judging import NOT_REPRODUCED, REPRODUCED, Verdict, all_of
from experiments.scales import Scale, scale_named
from experiments.standalone import Part, Row, Standalone, Tables, write_table
from qsim.attribution import Attribution, Cost, attribute
from qsim.commands.columns import print_columns
from qsim.config import override_all, preset
from qsim.policy import POLICIES
from qsim.rerun import Rerun
from qsim.training import train_new

BLAMED = {  # the gradients of the last layers' activations reach attention through scores; norms by any of theirs
    "fp16-noscale": ("scores",),
    "fp16-ln16": ("layernorm_1", "layernorm_2", "layernorm_final"),
    "fp16-pure": ("layernorm_1", "layernorm_2", "layernorm_final", "softmax"),
}
STEP, STEPS = 200, 300


def row_of(found: Attribution, cost: Cost) -> Row:
    row: dict[str, Any] = {"policy": found.other, "way": cost.way, "unit": cost.unit}
    for name in ("gradient", "update", "loss"):
        value = getattr(cost, name)
        row |= {f"{name}_{end}": _number(getattr(value, end)) for end in ("mean", "low", "high")}
    return row | {"underflowed": cost.underflowed, "overflowed": cost.overflowed, "not_finite": cost.not_finite}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4e}"


def named(found: Attribution) -> list[str]:
    """The three costliest sites swapped alone, and the one with the most underflows."""
    costliest = [cost.unit for cost in found.alone[:3]]
    lossy = max(found.alone, key=lambda cost: cost.underflowed)
    return list(dict.fromkeys([*costliest, *([lossy.unit] if lossy.underflowed else [])]))


def verdict(found: Attribution) -> Verdict:
    return _blame(found.other, named(found))


def _blame(policy: str, sites: list[str]) -> Verdict:
    missing = [site for site in BLAMED[policy] if site not in sites]
    if not missing:
        return Verdict(outcome=REPRODUCED, reason=f"{policy}: {', '.join(sites)}")
    reason = f"{policy}: not {', '.join(missing)}; named instead: {', '.join(sites)}"
    return Verdict(outcome=NOT_REPRODUCED, reason=reason)


def sites_of(rows: Sequence[Row], policy: str) -> list[Row]:
    """Rows of sites swapped alone, the costliest first; not of their parts, nor of everything at once."""
    own = [row for row in rows if row["policy"] == policy and row["way"] == "alone" and ":" not in row["unit"]]
    return own[1:]


def judge(tables: Tables) -> Verdict:
    policies = list(dict.fromkeys(row["policy"] for row in tables[TABLE]))
    return all_of([_blame(policy, _named(sites_of(tables[TABLE], policy))) for policy in policies])


def _named(rows: Sequence[Row]) -> list[str]:
    """``named`` of rows of the table."""
    lossy = max(rows, key=lambda row: int(row["underflowed"]))
    most = [lossy["unit"]] if int(lossy["underflowed"]) else []
    return list(dict.fromkeys([*(row["unit"] for row in rows[:3]), *most]))


def parts(scale: Scale) -> list[Part]:
    """At ``smoke`` one policy and a few steps, at any other scale the whole of it."""
    if scale.name == "smoke":
        return [{"policy": "fp16-noscale", "seed": 0, "steps": 4, "step": 3, "batches": 1, "stages": 0}]
    whole = {"seed": 0, "steps": STEPS, "step": STEP, "batches": 8, "stages": 5}
    return [{"policy": name, **whole} for name in BLAMED]


def make(part: Part) -> Tables:
    changes = {"steps": part["steps"], "seed": part["seed"], "record.statistics_every": 0}
    changes |= {"optimizer.warmup_steps": min(30, part["steps"]), "record.checkpoint_every": min(100, part["step"])}
    with tempfile.TemporaryDirectory() as folder:
        config = override_all(preset("tiny"), changes.items())
        again = Rerun(train_new(Path(folder) / "base", config, "fp32", "numba", None))
        settings = {name: part[name] for name in ("step", "batches", "stages")}
        found = attribute(again, POLICIES[part["policy"]], **settings)
    return {TABLE: [row_of(found, cost) for cost in (found.whole, *found.alone, *found.all_but, *found.parts)]}


def draw(tables: Tables) -> Figure:
    """Sites swapped alone by the error of the gradient that they cause; those that are blamed in another colour."""
    policies = list(dict.fromkeys(row["policy"] for row in tables[TABLE]))
    drawn, axes = figure(len(policies), width=3.6, height=3.6)
    for one, policy in zip(axes[0], policies, strict=True):
        rows = [row for row in sites_of(tables[TABLE], policy) if row["gradient_mean"]][::-1]
        colours = [COLOURS[row["unit"] in BLAMED[policy]] for row in rows]
        one.barh([row["unit"] for row in rows], [float(row["gradient_mean"]) for row in rows], color=colours)
        one.set(title=f"{policy} (red: blamed)", xlabel="error of the gradient, relative")
        one.set_xscale("symlog", linthresh=1e-6)
        one.tick_params(axis="y", labelsize=6)
        one.tick_params(axis="x", labelrotation=60)
    return drawn


TABLE = "fp16_attribution"
EXPERIMENT = Standalone(
    name="fp16_attribution",
    claim="gradients of attention without a loss scale, LayerNorm and softmax are what FP16 costs most",
    paper="section 3.2, Training details",
    parts=parts,
    make=make,
    judge=judge,
    draw=draw,
    seconds=lambda part: 20 + 6 * part["batches"],
    shown=lambda tables: [row for row in tables[TABLE] if row["way"] == "alone"],
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the table")
    parser.add_argument("--batches", type=int, default=8)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for part in parts(scale_named("small")):
        rows += make({**part, "batches": arguments.batches})[TABLE]
        write_table(arguments.out / "fp16_attribution.csv", rows)
    print(judge({TABLE: rows}))
    print_columns(rows)


if __name__ == "__main__":
    main()
