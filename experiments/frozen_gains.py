"""Gains frozen at 1.0: what a LayerNorm gain does without a float32 master copy, over learning rates.

Claim (a hypothesis about OPT, whose released gains are all 1.0): where parameters are kept in FP16 without a master
copy, an Adam step on a gain at 1.0 is at most about the learning rate, and below half a unit in the last place of 1.0
it is rounded away: below 2^-12 = 2.4e-4 in FP16 and 2^-9 = 2.0e-3 in BF16 for steps down, twice that for steps up.
So gains stay at 1.0 bit for bit, while biases, which start at 0, move; with a master copy both move.

Rule, written before it was run: *reproduced* where, at every learning rate of which no warmed-up step can exceed
the threshold downward, every gain of every seed without a master copy is 1.0 bit for bit at the end and every one of
the same seeds with a master copy is not; *not reproduced* where one gain without a master copy moved there.

    python -m experiments.frozen_gains experiments/results
    qsim experiment frozen_gains

Trains ``tiny`` in fp32 on the embedded text at each learning rate and replays it freely with and without a master
copy, in FP16 and BF16.  Writes frozen_gains.csv: one row a run, its last hashes among them, and prints the table.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.drawing import COLOURS, figure
from experiments.judging import NOT_REPRODUCED, REPRODUCED, UNTOLD, Verdict
from experiments.scales import Scale
from experiments.standalone import Part, Row, Standalone, Tables, write_table
from qsim import strict_json
from qsim.checkpoints import load_checkpoint
from qsim.commands.columns import print_columns
from qsim.config import override_all, preset
from qsim.policy import POLICIES
from qsim.replay import replay
from qsim.report.recorded import read_run
from qsim.runs import RunFolder
from qsim.training import train_new

LEARNING_RATES = (1e-4, 2e-4, 5e-4, 1e-3, 4e-3)
NAMES = ("fp16", "fp16-nomaster", "bf16", "bf16-nomaster")
THRESHOLDS = {"fp16": 2.0**-12, "bf16": 2.0**-9}  # half a unit in the last place below 1.0
# |m c1 / (sqrt(v c2) + eps)| of Adam with beta1 0.9, beta2 0.95 is at most (1 - beta1) / sqrt((1 - beta2)
# (1 - beta1^2 / beta2)), by Cauchy and Schwarz, in the long run; c1 / sqrt(c2) only lowers it at first
LARGEST_DIRECTION = (1 - 0.9) / ((1 - 0.95) * (1 - 0.9**2 / 0.95)) ** 0.5
KINDS = ("gain", "bias", "weight")


def runs_of(seed: int, learning_rate: float, steps: int, folder: Path) -> list[RunFolder]:
    """The fp32 run and its four replays; gains are not decayed, half the statistics' cost is theirs."""
    changes: dict[str, Any] = {"seed": seed, "steps": steps, "optimizer.learning_rate": learning_rate}
    changes |= {"optimizer.warmup_steps": max(1, steps // 10), "optimizer.schedule": "constant"}
    changes |= {"record.statistics_every": 10, "record.checkpoint_every": steps}
    config = override_all(preset("tiny"), changes.items())
    base = train_new(folder / f"{seed}-{learning_rate}-fp32", config, "fp32", "numba", None)
    return [base, *(replay(base, POLICIES[name], folder / f"{seed}-{learning_rate}-{name}") for name in NAMES)]


def summary(run: RunFolder) -> Row:
    """One row of frozen_gains.csv."""
    config, last = run.config, run.config.steps
    read, kept = read_run(run.path), load_checkpoint(run.path, last).state["parameters"]
    gains = np.concatenate([w.reshape(-1) for name, w in sorted(kept.items()) if name.endswith(".gain")])
    row: Row = {"policy": run.policy.name, "learning_rate": config.optimizer.learning_rate, "seed": config.seed}
    row |= {"gains": gains.size, "at_1": int(np.count_nonzero(gains == 1)), "std_gain": f"{gains.std():.3e}"}
    row |= {"largest_gain_change": f"{np.abs(gains - 1).max():.3e}", "held_out_loss": f"{read.held_out[last]:.6f}"}
    for kind, counts in _swallowed(run).items():
        row |= {f"{kind}_updates": counts["updates"], f"{kind}_swallowed": counts["swallowed"]}
    return row | {"parameters_sha256": read.hashes[last]["parameters"]}


def _swallowed(run: RunFolder) -> dict[str, Counter[str]]:
    """Updates of gains, biases and weights in the sampled steps, and those that changed no bit."""
    totals: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    for path in sorted((run.path / "statistics").glob("step_*.json")):
        for name, found in (strict_json.loads(path.read_text())["swallowed"] or {}).items():
            kind = name.split(".")[-1] if name.endswith((".gain", ".bias")) else "weight"
            totals[kind].update({key: found[key] for key in ("updates", "swallowed")})
    return totals


def verdict(rows: Iterable[Row]) -> Verdict:
    """By the rule of the module's docstring, over both formats."""
    told, moved, frozen_with = 0, [], []
    for row in rows:
        fmt, _, suffix = row["policy"].partition("-")
        if fmt not in THRESHOLDS or LARGEST_DIRECTION * row["learning_rate"] > THRESHOLDS[fmt]:
            continue
        if suffix:
            told += 1
            moved += [row] if row["at_1"] < row["gains"] else []
        else:
            frozen_with += [row] if row["at_1"] == row["gains"] else []
    if not told:
        return Verdict(outcome=UNTOLD, reason="no learning rate lies below a threshold")
    if moved or frozen_with:
        reason = f"gains moved in {len(moved)} of {told} runs; with a master none in {len(frozen_with)}"
        return Verdict(outcome=NOT_REPRODUCED, reason=reason)
    reason = f"all gains of {told} runs without a master copy are 1.0 bit for bit, with one they moved"
    return Verdict(outcome=REPRODUCED, reason=reason)


def parts(scale: Scale) -> list[Part]:
    """At ``smoke`` a few steps at one rate, at any other scale the whole table."""
    rates, steps = ((1e-4,), 10) if scale.name == "smoke" else (LEARNING_RATES, 100)
    return [{"learning_rate": rate, "seed": seed, "steps": steps} for rate in rates for seed in range(scale.seeds)]


def make(part: Part) -> Tables:
    with tempfile.TemporaryDirectory() as folder:
        runs = runs_of(part["seed"], part["learning_rate"], part["steps"], Path(folder))
        return {TABLE: list(map(summary, runs))}


def draw(tables: Tables) -> Figure:
    """Share of gains at 1.0 and their standard deviation over learning rates, means over seeds."""
    drawn, axes = figure(2, width=4.0, height=3.2)
    rows, names = tables[TABLE], [name for name in NAMES if any(row["policy"] == name for row in tables[TABLE])]
    for number, name in enumerate(names):
        own = [row for row in rows if row["policy"] == name]
        rates = sorted({row["learning_rate"] for row in own})
        style: dict[str, Any] = {"color": COLOURS[number], "label": name, "marker": "o", "markersize": 4}
        style["linestyle"] = "--" if "-" in name else "-"
        frozen = [np.mean([row["at_1"] / row["gains"] for row in own if row["learning_rate"] == r]) for r in rates]
        spread = [np.mean([float(row["std_gain"]) for row in own if row["learning_rate"] == r]) for r in rates]
        axes[0, 0].semilogx(rates, frozen, **style)
        axes[0, 1].semilogx(rates, spread, **style)
    for number, threshold in zip((1, 3), THRESHOLDS.values(), strict=True):
        axes[0, 0].axvline(threshold / LARGEST_DIRECTION, color=COLOURS[number], linewidth=0.8, linestyle=":")
    axes[0, 0].set(title="gains at 1.0 bit for bit (dotted: threshold)", xlabel="learning rate", ylabel="share")
    axes[0, 1].set(title="STD(g)", xlabel="learning rate", ylabel="standard deviation of gains")
    axes[0, 1].legend(frameon=False)
    return drawn


def without_hashes(rows: Iterable[Row]) -> list[Row]:
    return [{key: value for key, value in row.items() if not key.endswith("sha256")} for row in rows]


TABLE = "frozen_gains"
EXPERIMENT = Standalone(
    name="frozen_gains",
    claim="without a float32 master copy LayerNorm gains stay at 1.0 where the learning rate is small",
    paper="section 5, LayerNorm: OPT's gains",
    parts=parts,
    make=make,
    judge=lambda tables: verdict(tables[TABLE]),
    draw=draw,
    seconds=lambda part: 0.6 * part["steps"],
    shown=lambda tables: without_hashes(tables[TABLE]),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the table")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=LEARNING_RATES)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for learning_rate in arguments.learning_rates:
            for seed in range(arguments.seeds):
                rows += map(summary, runs_of(seed, learning_rate, arguments.steps, Path(folder)))
            write_table(arguments.out / "frozen_gains.csv", rows)
    print_columns(without_hashes(rows))
    print(verdict(rows))


if __name__ == "__main__":
    main()
