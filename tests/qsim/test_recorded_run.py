"""Recorded runs in a notebook: what the frames hold is what the files hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import assert_same_trees, assert_sentence, small_run

import qsim
from qsim.checkpoints import load_checkpoint
from qsim.hashing import stack
from qsim.policy import POLICIES
from qsim.runs import RunError
from qsim.shadow import shadow

STEPS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_run(tmp_path_factory.mktemp("notebook") / "run", "fp16").path


def statistics(folder: Path, step: int) -> dict[str, Any]:
    return json.loads((folder / "statistics" / f"step_{step:06d}.json").read_text())


def test_metrics_and_hashes(folder: Path) -> None:
    run = qsim.load_run(folder)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert list(run.metrics.index) == list(range(1, STEPS + 1))
    assert run.metrics["loss"].tolist() == [row["loss"] for row in lines if "loss" in row]
    assert run.metrics["validation_loss"].dropna().tolist() == [lines[-1]["validation_loss"]]
    rows = [json.loads(line) for line in (folder / "hashes.jsonl").read_text().splitlines()]
    assert run.hashes["parameters"].tolist() == [row["parameters"] for row in rows]
    assert repr(run).startswith(f"<fp16 run of {STEPS} steps in ")


def test_counts_by_place(folder: Path) -> None:
    run = qsim.load_run(folder)
    recorded = statistics(folder, 3)["sites"]
    place = (3, 1, "mlp_up", "dgrad")
    assert run.sites.loc[place, "inexact"] == recorded["layer.1.mlp_up.dgrad"]["inexact"]
    assert run.sites.loc[(3, -1, "logits", "fprop"), "count"] == recorded["logits.fprop"]["count"]
    assert len(run.sites.loc[3]) == len(recorded)
    bins = run.exponents.loc[place]["count"]
    expected = {int(e): n for e, n in recorded["layer.1.mlp_up.dgrad"]["exponents"].items()}
    assert {int(e): int(n) for e, n in bins.items()} == expected


def test_parameters_are_told_by_tensor(folder: Path) -> None:
    run = qsim.load_run(folder)
    recorded = statistics(folder, 6)
    name = "layer.0.qkv.weight"
    assert run.swallowed.loc[(6, name), "decays"] == recorded["swallowed"][name]["decays"]
    assert run.needed_scales.loc[(6, name), "largest"] == recorded["scales"][name]["largest"]


def test_arrays(folder: Path) -> None:
    run = qsim.load_run(folder)
    assert run.checkpoints == [0, 2, 4, 6]
    assert_same_trees(stack(run.parameters(2)), load_checkpoint(folder, 2).state["parameters"])
    first, second = run.moments()
    assert_same_trees(stack(first), load_checkpoint(folder, 6).state["first"])
    assert_same_trees(stack(second), load_checkpoint(folder, 6).state["second"])
    assert run.tokens().ndim == 1


def test_pictures(folder: Path, tmp_path: Path) -> None:
    """What is drawn is what the frames hold; given axes are used."""
    run = qsim.load_run(folder)
    (one,) = shadow(run._folder, [POLICIES["bf16"]], tmp_path)
    other = qsim.load_run(one.path)
    ax = run.plot_losses(other)
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), other.metrics["loss"])
    assert run.plot_losses(ax=ax) is ax
    apart = run.plot_differences(other).lines[0].get_ydata()
    np.testing.assert_array_equal(apart, (other.metrics["loss"] - run.metrics["loss"]).abs())
    image = run.plot_heat("became_subnormal").images[0].get_array()
    assert image.shape == (len(statistics(folder, 3)["sites"]), len({1, 3, 6}))
    assert sum(bar.get_height() for bar in run.plot_exponents(["fprop"]).patches) > 0
    assert run.plot_loss_scale().lines[0].get_ydata().tolist() == run.metrics["loss_scale"].tolist()
    rows = other.propagation
    assert 0 < rows.loc[(3, 0, "mlp_up", "fprop"), "rounding"] < 0.01


def test_shadows_keep_no_checkpoints(folder: Path, tmp_path: Path) -> None:
    (one,) = shadow(qsim.load_run(folder)._folder, [POLICIES["bf16"]], tmp_path, steps=1)
    with pytest.raises(RunError) as error:
        qsim.load_run(one.path).parameters()
    assert_sentence(error.value, "no checkpoint", str(one.path))


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    script = "import sys, qsim; sys.exit(any(n in sys.modules for n in ('jax', 'numba', 'pandas', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        qsim.load_run(tmp_path / "nothing")
    assert_sentence(error.value, "nothing", "train wrote")
    with pytest.raises(AttributeError):
        qsim.load_everything
