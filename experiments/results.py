"""The rows of an experiment, by variant and seed, and the figures that its rule and its pictures ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.quantizing import INT4, INT8, PRE
from experiments.rows import Row
from experiments.statistics import Interval, change_of_scores, degradation, interval, sign_test
from experiments.variant import Variant

LEARNED = 0.8  # of the unigram entropy: a loss above it is that of a model that learned too little to be told about
CLOSE = 0.02  # how far losses before quantization may lie apart


@dataclass(frozen=True, kw_only=True)
class Results:
    """rows: by label, one a seed, of the seeds that every variant has, in the same order."""

    variants: Sequence[Variant]
    rows: Mapping[str, Sequence[Row]]

    def variant(self, label: str) -> Variant:
        return next(variant for variant in self.variants if variant.label == label)

    @property
    def labels(self) -> list[str]:
        return [variant.label for variant in self.variants]

    @property
    def seeds(self) -> int:
        return len(self.rows[self.labels[0]])

    @property
    def steps(self) -> list[int]:
        """Steps that were measured."""
        return sorted(map(int, self.rows[self.labels[0]][0]["checkpoints"]))

    def losses(self, label: str, scheme: str = PRE, step: int | None = None) -> np.ndarray:
        """(S, N): of every seed and sequence; ``step``: the last unless given."""
        step = self.steps[-1] if step is None else step
        return np.array([row["checkpoints"][str(step)]["losses"][scheme] for row in self.rows[label]], float)

    def degradation(self, label: str, scheme: str = INT8, step: int | None = None) -> np.ndarray:
        """(S, N), percent."""
        return degradation(self.losses(label, PRE, step), self.losses(label, scheme, step))

    def degraded(self, label: str, scheme: str = INT8, step: int | None = None) -> Interval:
        return interval(self.degradation(label, scheme, step))

    def difference(self, more: str, less: str, scheme: str = INT8, step: int | None = None) -> Interval:
        """By how many percentage points one variant degrades more than another, paired."""
        return interval(self.degradation(more, scheme, step) - self.degradation(less, scheme, step))

    def between(self, label: str, more: str, less: str) -> Interval:
        """By how many percentage points a variant degrades more under one scheme than under another, paired."""
        return interval(self.degradation(label, more) - self.degradation(label, less))

    def ratio(self, over: str, under: str, name: str, site: str = "qkv") -> Interval:
        """Of a mechanism metric in one variant to that in another, by seed and block, paired."""
        return interval(self.metric(over, name, site) / self.metric(under, name, site))

    def sign(self, more: str, less: str, scheme: str = INT8) -> float | None:
        """p of a sign test over seeds, None where they are too few."""
        difference = self.degradation(more, scheme) - self.degradation(less, scheme)
        return sign_test(difference.mean(axis=1))

    def apart(self, label: str) -> float | None:
        """Loss before quantization relative to that of the control, minus 1; None without a control."""
        control = self.variant(label).control
        if control is None:
            return None
        return float(self.losses(label).mean() / self.losses(control).mean() - 1)

    def learned(self, label: str) -> float:
        """Loss before quantization over the unigram entropy of the text."""
        return float(self.losses(label).mean() / self.rows[label][0]["unigram_entropy"])

    def metric(self, label: str, name: str, site: str = "qkv", step: int | None = None) -> np.ndarray:
        """(S, L) of a mechanism metric at a site; NaN of a model that is not finite."""
        step = self.steps[-1] if step is None else step
        found = [row["checkpoints"][str(step)]["layers"] for row in self.rows[label]]
        own = [[one[name] for one in layers if one["site"] == site] for layers in found]
        count = max(1, *map(len, own))
        return np.array([values or [np.nan] * count for values in own], float)

    def outliers(self, label: str, threshold: str) -> np.ndarray:
        """(S, readings): outlier dimensions at the last step."""
        return np.array([self._last(row)["outliers"][threshold] for row in self.rows[label]], float)

    def _last(self, row: Row) -> dict[str, Any]:
        return row["checkpoints"][str(self.steps[-1])]

    @property
    def tasks(self) -> dict[str, str]:
        """Tasks that were asked, each with the metric whose change counts."""
        return {task: one["metric"] for task, one in self.rows[self.labels[0]][0]["asked"].items()}

    def right(self, label: str, task: str, scheme: str = PRE) -> np.ndarray:
        """(S, items) of 0 and 1: whether each was right at the last step."""
        found = [self._last(row)["tasks"][scheme][task]["right"][self.tasks[task]] for row in self.rows[label]]
        return np.array([list(map(int, text)) for text in found])

    def change_of_scores(self, label: str, scheme: str = INT8, task: str | None = None) -> Interval | None:
        """Percent, mean over tasks of (post - pre) / pre as the paper has it, or of one task; losses below 0."""
        tasks = self.tasks if task is None else [task]
        return change_of_scores([(self.right(label, one), self.right(label, one, scheme)) for one in tasks])

    def task_table(self) -> list[dict[str, Any]]:
        """A line a variant and task, and one of their mean: scores before, after, and their change."""
        return [line for label in self.labels if self.tasks for line in self._task_lines(label)]

    def _task_lines(self, label: str) -> Iterator[dict[str, Any]]:
        for task, metric in self.tasks.items():
            scores = {f"{scheme}": f"{self.right(label, task, scheme).mean():.4f}" for scheme in (PRE, INT8, INT4)}
            size = self.right(label, task).shape[1]
            named = {"variant": label, "task": f"{task}, {metric}, {size} items"}
            yield named | scores | self._changes(label, task)
        yield {"variant": label, "task": "mean of tasks"} | dict.fromkeys((PRE, INT8, INT4)) | self._changes(label)

    def _changes(self, label: str, task: str | None = None) -> dict[str, str | None]:
        found = {scheme: self.change_of_scores(label, scheme, task) for scheme in (INT8, INT4)}
        return {f"{name}, change in %": None if one is None else str(one) for name, one in found.items()}

    def training(self, label: str, name: str) -> np.ndarray:
        """(S,) of a number that training left."""
        return np.array([row["training"][name] for row in self.rows[label]], float)

    def table(self, schemes: Sequence[str] = (INT8,)) -> list[dict[str, Any]]:
        """A line a variant."""
        return [self._line(label, schemes) for label in self.labels]

    def _line(self, label: str, schemes: Sequence[str]) -> dict[str, Any]:
        control, apart = self.variant(label).control, self.apart(label)
        line: dict[str, Any] = {"variant": label, "seeds": self.seeds, "loss": f"{self.losses(label).mean():.4f}"}
        line |= {"of unigram entropy": f"{self.learned(label):.2f}"}
        line |= {"from control": None if apart is None else f"{100 * apart:+.2f} %"}
        for scheme in schemes:
            line[f"{scheme}, %"] = str(self.degraded(label, scheme))
            more = None if control is None else self.difference(label, control, scheme)
            line[f"{scheme}, points above control"] = None if more is None else str(more)
        return line
