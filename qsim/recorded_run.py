"""Recorded runs for a notebook: arrays, data frames, and pictures as matplotlib axes.

    import qsim

    run = qsim.load_run("runs/a")
    run.metrics.loss.plot()
    run.sites.query("underflowed > 0")
    run.plot_losses()

Files are read when they are asked for, and again when they are asked for again: a run may still be going on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qsim import strict_json
from qsim.checkpoints import load_checkpoint, saved_steps
from qsim.config import RunConfig
from qsim.hashing import unstack
from qsim.policy import Arithmetic
from qsim.report.recorded import parse_site
from qsim.runs import RunError, RunFolder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


def load_run(path: str | os.PathLike[str]) -> RecordedRun:
    """The run, replay or shadow in a folder.  RunError where there is none."""
    return RecordedRun(RunFolder.open(Path(path)))


class RecordedRun:
    """What a run folder holds.

    Data frames need the extra ``notebook`` (pandas); configuration, policy and arrays do not.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self.path = folder.path

    def __repr__(self) -> str:
        return f"<{self.policy.name} run of {self.config.steps} steps in {str(self.path)!r}>"

    @property
    def config(self) -> RunConfig:
        return self._folder.config

    @property
    def policy(self) -> Arithmetic:
        return self._folder.policy

    @property
    def record(self) -> dict[str, Any]:
        """config.json."""
        return self._folder.record()

    # Tables

    @property
    def metrics(self) -> DataFrame:
        """metrics.jsonl by step: loss, gradient_norm, loss_scale, skipped and others; validation_loss at the end."""
        return self._by_step("metrics.jsonl")

    @property
    def hashes(self) -> DataFrame:
        """hashes.jsonl by step: SHA-256 of loss, gradients, parameters, optimizer."""
        return self._by_step("hashes.jsonl")

    @property
    def sites(self) -> DataFrame:
        """Counts of the roundings by step, layer (-1 where the model has a site once), site and pass."""
        rows = [
            {"step": step} | _place(key) | {name: value for name, value in counts.items() if _plain(value)}
            for step, file in self._statistics()
            for key, counts in file["sites"].items()
        ]
        return _frame(rows, ["step", "layer", "site", "pass"])

    @property
    def exponents(self) -> DataFrame:
        """Histograms of floor(log2 |x|) of what was rounded: ``count`` by step, place and exponent."""
        rows = [
            {"step": step} | _place(key) | {"exponent": int(exponent), "count": number}
            for step, file in self._statistics()
            for key, counts in file["sites"].items()
            for exponent, number in counts["exponents"].items()
        ]
        return _frame(rows, ["step", "layer", "site", "pass", "exponent"])

    @property
    def swallowed(self) -> DataFrame:
        """Updates and decays that changed no bit, by step and parameter tensor (``qsim.swallowed``)."""
        return self._by_tensor("swallowed")

    @property
    def needed_scales(self) -> DataFrame:
        """Loss scales that each tensor's gradient would have borne, by step and tensor (``qsim.loss_scales``)."""
        return self._by_tensor("scales")

    @property
    def propagation(self) -> DataFrame:
        """Of a shadow replay: rounding and error by step and place (``qsim.shadow.propagation``)."""
        rows = [
            {"step": step} | _place(key) | {"rounding": found["rounding"], "error": found["error"]}
            for step, file in self._statistics()
            for key, found in file.get("propagation", {}).items()
        ]
        return _frame(rows, ["step", "layer", "site", "pass"])

    # Arrays

    @property
    def checkpoints(self) -> list[int]:
        """Steps that have one."""
        return saved_steps(self.path)

    def parameters(self, step: int | None = None) -> dict[str, np.ndarray]:
        """Float32 by name, layers unstacked, after a step that was saved; the last one unless given."""
        return self._state("parameters", step)

    def moments(self, step: int | None = None) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """First and second moments of AdamW, the same way."""
        return self._state("first", step), self._state("second", step)

    def tokens(self) -> np.ndarray:
        """What it was trained on and held out from, mapped from its file."""
        from qsim.data import load_data

        return load_data(self.path).tokens

    # Pictures

    def plot_losses(self, *others: RecordedRun, ax: Axes | None = None) -> Axes:
        """Loss over steps, of this run and others."""
        ax = _axes(ax)
        for run in (self, *others):
            losses = run.metrics["loss"].dropna()
            ax.plot(losses.index, losses, label=run.policy.name)
        ax.set(xlabel="step", ylabel="loss")
        ax.legend()
        return ax

    def plot_differences(self, *others: RecordedRun, ax: Axes | None = None) -> Axes:
        """|loss of each other run - loss of this one| over the steps both have, on a logarithmic axis."""
        ax = _axes(ax)
        own = self.metrics["loss"].dropna()
        for run in others:
            apart = (run.metrics["loss"].dropna() - own).dropna().abs()
            ax.plot(apart.index, apart, label=run.policy.name)
        ax.set(xlabel="step", ylabel="difference of losses", yscale="log")
        ax.legend()
        return ax

    def plot_heat(self, counter: str = "underflowed", ax: Axes | None = None) -> Axes:
        """Share of values by place (rows) and step (columns) that a counter of ``sites`` counted, as a heat map."""
        ax = _axes(ax)
        counts = self.sites.reset_index()
        counts["place"] = [_label(row) for row in counts.itertuples()]
        counts["share"] = counts[counter] / counts["count"].clip(lower=1)
        table = counts.pivot(index="place", columns="step", values="share")
        table = table.loc[list(dict.fromkeys(counts["place"]))]
        image = ax.imshow(np.asarray(table, np.float64), aspect="auto", interpolation="nearest")
        ax.set_xticks(range(table.shape[1]), [str(step) for step in table.columns])
        ax.set_yticks(range(table.shape[0]), list(table.index))
        ax.set(xlabel="step", title=f"share {counter}")
        ax.figure.colorbar(image, ax=ax)
        return ax

    def plot_exponents(self, passes: Iterable[str] = ("dgrad",), ax: Axes | None = None) -> Axes:
        """Histogram of exponents over all steps and places of these passes, fp16's and bf16's normal range marked."""
        from precision.formats import BF16, FP16

        ax = _axes(ax)
        counts = self.exponents.reset_index()
        total = counts[counts["pass"].isin(list(passes))].groupby("exponent")["count"].sum()
        ax.bar(total.index, total, width=1.0)
        for fmt, style in ((FP16, "--"), (BF16, ":")):
            ax.axvline(fmt.min_normal_exponent, linestyle=style, label=f"smallest normal value of {fmt.name}")
        ax.set(xlabel="floor(log2 |x|)", ylabel="values", yscale="log")
        ax.legend()
        return ax

    def plot_loss_scale(self, ax: Axes | None = None) -> Axes:
        """Loss scale over steps, on an axis of powers of two; skipped steps as marks."""
        ax = _axes(ax)
        rows = self.metrics.dropna(subset=["loss_scale"])
        ax.step(rows.index, rows["loss_scale"], where="post")
        skipped = rows[rows["skipped"].astype(bool)]
        ax.plot(skipped.index, skipped["loss_scale"], "x", label="skipped")
        ax.set_yscale("log", base=2)
        ax.set(xlabel="step", ylabel="loss scale")
        ax.legend()
        return ax

    def _by_step(self, name: str) -> DataFrame:
        """Rows of one step together: the held-out loss comes on a line of its own."""
        rows: dict[int, dict[str, Any]] = {}
        for row in self._folder.rows(name):
            rows.setdefault(row["step"], {}).update(row)
        return _frame(list(rows.values()), ["step"])

    def _statistics(self) -> Iterable[tuple[int, dict[str, Any]]]:
        for path in sorted((self.path / "statistics").glob("step_*.json")):
            try:
                file = strict_json.loads(path.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise RunError(f"{str(path)!r} is damaged ({error}); restore it or delete it") from None
            yield file["step"], file

    def _by_tensor(self, part: str) -> DataFrame:
        rows = [
            {"step": step, "tensor": name} | {key: value for key, value in found.items() if _plain(value)}
            for step, file in self._statistics()
            for name, found in (file.get(part) or {}).items()
        ]
        return _frame(rows, ["step", "tensor"])

    def _state(self, part: str, step: int | None) -> dict[str, np.ndarray]:
        steps = self.checkpoints
        if not steps:
            raise RunError(f"run {str(self.path)!r} has no checkpoint; shadow replays keep none")
        return unstack(load_checkpoint(self.path, steps[-1] if step is None else step).state[part])


def _plain(value: Any) -> bool:
    return not isinstance(value, dict | list)


def _place(key: str) -> dict[str, Any]:
    layer, site, kind = parse_site(key)
    return {"layer": -1 if layer is None else layer, "site": site, "pass": kind}


def _label(row: Any) -> str:
    where = row.site if row.layer < 0 else f"{row.site} {row.layer}"
    return f"{where} {row[4]}"


def _axes(ax: Axes | None) -> Axes:
    """Given ones, or those of a figure of their own, which pyplot does not know and a notebook shows."""
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(layout="constrained").add_subplot()


def _frame(rows: list[dict[str, Any]], index: list[str]) -> DataFrame:
    try:
        import pandas
    except ImportError:
        raise RunError("data frames need pandas; install qsim-precision[notebook]") from None
    frame = pandas.DataFrame(rows, columns=None if rows else index)
    return frame.set_index(index).sort_index()
