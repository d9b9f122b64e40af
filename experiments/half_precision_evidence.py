"""What training loses in FP16, counted: without a loss scale, and with LayerNorm's arithmetic in FP16.

Claims.  A: without a loss scale gradients underflow, and dynamic scaling brings them back.  B: LayerNorm in FP16
(``fp16-ln16``) trains worse than LayerNorm with float32 inside (``fp16``).

Rule, written after its first rows (those in ``experiments/results``) and meant for others: A is *reproduced* where in
every seed dynamic scaling loses less than a tenth of the share of gradients lost without a scale, else *not
reproduced*.  B is *reproduced* where under either scale the held-out loss is higher with LayerNorm in FP16 in every
seed, else *not reproduced*.  Fewer than three seeds tell nothing.

    python -m experiments.half_precision_evidence experiments/results
    qsim experiment half_precision_evidence

Trains ``tiny`` in fp32 on the embedded text and replays it freely under five policies, from each of three seeds;
those at a constant scale of 2^16 (``-static``) tell what is rounded from the steps that dynamic scaling skips.
Writes two tables.  half_precision_runs.csv: losses, what gradients lost in the sampled steps, skipped steps, and the
hashes of the last step, which anyone's run of this file must give again.  half_precision_layernorm.csv: every
rounding inside LayerNorm, in steps made again from checkpoints; the hash of such a step has to be the recorded one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from experiments.drawing import COLOURS, figure
from experiments.judging import NOT_REPRODUCED, REPRODUCED, UNTOLD, Verdict, all_of
from experiments.scales import Scale
from experiments.standalone import Part, Row, Standalone, Tables, write_table
from experiments.statistics import FEWEST_SEEDS
from precision.statistics import Statistics
from qsim.checkpoints import load_checkpoint
from qsim.commands.columns import print_columns
from qsim.config import override_all, preset
from qsim.data import batch, load_data
from qsim.hashing import tree_hash
from qsim.inner_recording import SUFFIX, InnerRecording
from qsim.model import step_keys
from qsim.optimizer import step_scalars
from qsim.policies import NORMS
from qsim.policy import POLICIES
from qsim.recorders import Recorder
from qsim.replay import replay
from qsim.report.recorded import HASHED, read_run
from qsim.runs import RunFolder
from qsim.stages import LossScaling
from qsim.step import training_step
from qsim.training import as_statistics, train_new

SCALE = LossScaling(mode="static", initial=2.0**16)
STATIC, LN16_STATIC = (
    replace(POLICIES[name], name=f"{name}-static", loss_scaling=SCALE) for name in ("fp16", "fp16-ln16")
)
REPLAYS = (POLICIES["fp16"], POLICIES["fp16-noscale"], STATIC, POLICIES["fp16-ln16"], LN16_STATIC)
GRADIENTS = ("dgrad", "wgrad")
COUNTERS = ("count", "zero", "underflowed", "became_subnormal", "overflowed", "nan", "infinite", "inexact")


def runs_of(seed: int, steps: int, executor: str, folder: Path) -> list[RunFolder]:
    """The fp32 run of a seed and its replays."""
    changes = {"seed": seed, "steps": steps, "optimizer.warmup_steps": max(1, steps // 10)}
    config = override_all(preset("tiny"), changes.items())
    base = train_new(folder / f"{seed}-fp32", config, "fp32", executor, None)
    return [base, *(replay(base, policy, folder / f"{seed}-{policy.name}") for policy in REPLAYS)]


def summary(run: RunFolder) -> Row:
    """One row of half_precision_runs.csv."""
    read, last = read_run(run.path), run.config.steps
    lost, nonzero = (read.total(name, GRADIENTS) for name in ("underflowed", "nonzero"))
    row = {"policy": run.policy.name, "seed": run.config.seed, "steps": last}
    row |= {"loss": f"{read.losses[last]:.6f}", "held_out_loss": f"{read.held_out[last]:.6f}"}
    row |= {"gradients_nonzero": nonzero, "gradients_underflowed": lost, "share": f"{lost / nonzero:.3e}"}
    row |= {"gradients_became_subnormal": read.total("became_subnormal", GRADIENTS)}
    row |= {name: read.total(name) for name in ("overflowed", "nan", "infinite")}
    row |= {"skipped_steps": len(read.skipped), "last_loss_scale": read.scales[last]}
    return row | {f"{name}_sha256": read.hashes[last][name] for name in HASHED}


def layernorm_counts(run: RunFolder) -> Iterator[Row]:
    """Rows of half_precision_layernorm.csv: the step after each checkpoint but the last, layers together."""
    for step in range(0, run.config.steps, run.config.record.checkpoint_every):
        totals: dict[str, Counter[str]] = {}
        for key, found in _step_made_again(run, step).items():
            *_, site, direction, kind = ("", *key.split("."))
            if kind == SUFFIX:
                counts = totals.setdefault(f"{site}.{direction}", Counter())
                counts.update({name: getattr(found, name) for name in COUNTERS})
        for site, counts in sorted(totals.items()):
            yield {"policy": run.policy.name, "seed": run.config.seed, "step": step + 1, "site": site, **counts}


def _step_made_again(run: RunFolder, saved: int) -> dict[str, Statistics]:
    """Statistics of the step after a checkpoint, whose gradients have to be those of the run."""
    config, policy, kept, recorder = run.config, run.policy, load_checkpoint(run.path, saved), Recorder()
    rows = batch(
        load_data(run.path),
        seed=config.seed,
        step=saved + 1,
        batch_size=config.data.batch_size,
        length=config.model.length,
        order=config.data.order,
    )
    scalars = step_scalars(config.optimizer, saved + 1, config.steps, kept.updates, kept.scale.scale)
    keys = step_keys(config.model, policy, config.seed, saved + 1)
    ar = InnerRecording(policy, run.executor, recorder, NORMS)
    _, results = training_step(ar, config, kept.state, rows, scalars, keys)
    if tree_hash(results["gradients"]) != read_run(run.path).hashes[saved + 1]["gradients"]:
        raise SystemExit(f"step {saved + 1} of {policy.name} made again has other gradients than the run recorded")
    return as_statistics(recorder.results(ar.backend), recorder.formats)


def verdict(rows: Sequence[Row]) -> Verdict:
    """By the rule of the module's docstring, of both claims."""
    seeds = sorted({row["seed"] for row in rows})
    of = {(row["policy"], row["seed"]): row for row in rows}
    shares = [(float(of["fp16-noscale", seed]["share"]), float(of["fp16", seed]["share"])) for seed in seeds]
    worse = {name: _worse(of, wide, name, seeds) for wide, name in NARROWED}
    claims = [
        Verdict(
            outcome=REPRODUCED if all(scaled < none / 10 for none, scaled in shares) else NOT_REPRODUCED,
            reason=f"A: lost without a scale and with it {', '.join(f'{a:.1e} and {b:.1e}' for a, b in shares)}",
        ),
        Verdict(
            outcome=REPRODUCED if all(min(one) > 0 for one in worse.values()) else NOT_REPRODUCED,
            reason="B: " + "; ".join(f"{name} {', '.join(f'{x:+.4f}' for x in one)}" for name, one in worse.items()),
        ),
    ]
    if len(seeds) < FEWEST_SEEDS:
        return Verdict(outcome=UNTOLD, reason=f"{len(seeds)} seed(s), and a verdict takes {FEWEST_SEEDS}")
    return all_of(claims)


def _worse(of: dict[tuple[str, int], Row], wide: str, narrow: str, seeds: Sequence[int]) -> list[float]:
    losses = [(float(of[narrow, seed]["held_out_loss"]), float(of[wide, seed]["held_out_loss"])) for seed in seeds]
    return [a - b for a, b in losses]


def parts(scale: Scale) -> list[Part]:
    """At ``smoke`` a few steps, at any other scale the whole of it."""
    steps = 10 if scale.name == "smoke" else 300
    return [{"seed": seed, "steps": steps, "executor": "numba"} for seed in range(scale.seeds)]


def make(part: Part) -> Tables:
    tables: Tables = {RUNS: [], LAYERNORM: []}
    with tempfile.TemporaryDirectory() as folder:
        for run in runs_of(part["seed"], part["steps"], part["executor"], Path(folder)):
            tables[RUNS].append(summary(run))
            if run.policy.name in ("fp16", "fp16-ln16"):
                tables[LAYERNORM] += layernorm_counts(run)
    return tables


def draw(tables: Tables) -> Figure:
    """What gradients lost and how far the loss ends from fp32's, a point a seed."""
    drawn, axes = figure(2, width=4.0, height=3.2)
    rows = tables[RUNS]
    base = {row["seed"]: float(row["held_out_loss"]) for row in rows if row["policy"] == "fp32"}
    names = [policy.name for policy in REPLAYS]
    for place, name in enumerate(names):
        own = [row for row in rows if row["policy"] == name]
        axes[0, 0].plot([place] * len(own), [float(row["share"]) for row in own], "o", color=COLOURS[place])
        apart = [float(row["held_out_loss"]) - base[row["seed"]] for row in own]
        axes[0, 1].plot([place] * len(own), apart, "o", color=COLOURS[place])
    axes[0, 0].set_yscale("symlog", linthresh=1e-8)
    axes[0, 0].set(title="gradients that became zero", ylabel="share of nonzero ones", ylim=(0, 1))
    axes[0, 1].set(title="held-out loss minus that of fp32", ylabel="nats")
    axes[0, 1].axhline(0, color="black", linewidth=0.6)
    for one in axes[0]:
        one.set_xticks(range(len(names)), names, rotation=30, ha="right")
    return drawn


RUNS, LAYERNORM = "half_precision_runs", "half_precision_layernorm"
NARROWED = (("fp16", "fp16-ln16"), (STATIC.name, LN16_STATIC.name))
EXPERIMENT = Standalone(
    name="half_precision_evidence",
    claim="fp16 loses gradients without a loss scale; LayerNorm in fp16 trains worse",
    paper="sections 3.2 and 4, Half-precision",
    parts=parts,
    make=make,
    judge=lambda tables: verdict(tables[RUNS]),
    draw=draw,
    seconds=lambda part: 0.35 * part["steps"],
    shown=lambda tables: [{k: v for k, v in row.items() if not k.endswith("sha256")} for row in tables[RUNS]],
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the tables")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--executor", default="numba", choices=("numba", "numpy"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    tables: Tables = {}
    for seed in range(arguments.seeds):
        found = make({"seed": seed, "steps": arguments.steps, "executor": arguments.executor})
        for name, rows in found.items():
            tables.setdefault(name, []).extend(rows)
            write_table(arguments.out / f"{name}.csv", tables[name])
    print_columns(EXPERIMENT.shown(tables))
    print(verdict(tables[RUNS]))


if __name__ == "__main__":
    main()
