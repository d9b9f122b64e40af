"""Which sites of FP16 cost what, by swapping one at a time.

Claim (the literature's): what breaks in FP16 training is gradients of activations without a loss scale, and
LayerNorm's statistics and softmax where their arithmetic is FP16 too.

Rule, written before it was run: a site is *named* where it is among the three costliest, swapped alone, by the error
of the gradient, or has the most underflows of all; the claim is *reproduced* where every site it blames for a policy
is named, else what was named instead is said.

    python -m experiments.fp16_attribution experiments/results

Trains ``tiny`` in fp32 on the embedded text, 300 steps, and attributes its steps after 200 to ``fp16-noscale``,
``fp16-ln16`` and ``fp16-pure``, eight batches each.  Writes fp16_attribution.csv: one row a policy, way and unit.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from experiments.half_precision_evidence import Row, write_table
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


def verdict(found: Attribution) -> str:
    blamed, sites = BLAMED[found.other], named(found)
    missing = [site for site in blamed if site not in sites]
    if not missing:
        return f"{found.other}: reproduced, {', '.join(sites)}"
    return f"{found.other}: not reproduced for {', '.join(missing)}; named instead: {', '.join(sites)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the table")
    parser.add_argument("--batches", type=int, default=8)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        changes: dict[str, Any] = {"steps": STEPS, "record.statistics_every": 0, "record.checkpoint_every": 100}
        config = override_all(preset("tiny"), changes.items())
        again = Rerun(train_new(Path(folder) / "base", config, "fp32", "numba", None))
        for name in BLAMED:
            found = attribute(again, POLICIES[name], step=STEP, batches=arguments.batches)
            rows += [row_of(found, cost) for cost in (found.whole, *found.alone, *found.all_but, *found.parts)]
            write_table(arguments.out / "fp16_attribution.csv", rows)
            print(verdict(found), flush=True)
    print_columns(rows)


if __name__ == "__main__":
    main()
