"""What training loses in FP16, counted: without a loss scale, and with LayerNorm's arithmetic in FP16.

Claims.  A: without a loss scale gradients underflow, and dynamic scaling brings them back.  B: LayerNorm in FP16
(``fp16-ln16``) trains worse than LayerNorm with float32 inside (``fp16``).

    python -m experiments.half_precision_evidence experiments/results

Trains ``tiny`` in fp32 on the embedded text and replays it freely under five policies, from each of three seeds;
those at a constant scale of 2^16 (``-static``) tell what is rounded from the steps that dynamic scaling skips.
Writes two tables.  half_precision_runs.csv: losses, what gradients lost in the sampled steps, skipped steps, and the
hashes of the last step, which anyone's run of this file must give again.  half_precision_layernorm.csv: every
rounding inside LayerNorm, in steps made again from checkpoints; the hash of such a step has to be the recorded one.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from precision.statistics import Statistics
from qsim.checkpoints import load_checkpoint
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
Row = dict[str, Any]


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


def write_table(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the tables")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--executor", default="numba", choices=("numba", "numpy"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    summaries: list[Row] = []
    norms: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            for run in runs_of(seed, arguments.steps, arguments.executor, Path(folder)):
                summaries.append(summary(run))
                print(*list(summaries[-1].values())[:-4], flush=True)
                if run.policy.name in ("fp16", "fp16-ln16"):
                    norms += layernorm_counts(run)
            write_table(arguments.out / "half_precision_runs.csv", summaries)
            write_table(arguments.out / "half_precision_layernorm.csv", norms)


if __name__ == "__main__":
    main()
