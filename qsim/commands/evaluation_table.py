"""What ``qsim evaluate`` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from qsim.commands.columns import print_columns

if TYPE_CHECKING:
    from qsim.evaluation import Comparison, Evaluation, TaskScore
    from qsim.evaluation.comparison import Interval, TaskComparison


def print_evaluations(head: dict[str, Any], found: Sequence[Evaluation], compared: Sequence[Comparison]) -> None:
    """head: as ``qsim evaluate --json`` has it.  compared: all of ``found`` but the first with the first."""
    print(
        f"{head['model']} ({head['architecture']}); {found[0].name} is {head['policy']}, sums {head['accumulator']}, "
        f"{head['executor']}"
    )
    for way in head["ways"][1:]:
        print(f"{way['name']}: {_way(way, head)}")
    if head["calibration"]:
        print(f"calibrated on {head['calibration']}")
    text = found[0].text
    if text is not None:
        print(f"text: {head['text']}, {len(text.losses)} tokens in windows of {text.length}, stride {text.stride}")
    print()
    print_columns([_summary(one, c) for one, c in zip(found, [None, *compared], strict=True)])
    if found[0].tasks:
        print_columns(list(_task_rows(found, compared)), by="task")
    unscored = sum(s.not_finite for e in found for s in e.tasks) + sum(e.text.not_finite for e in found if e.text)
    if unscored:
        print(f"\n{unscored} losses are not finite: logits overflowed or are NaN; such items count as wrong")


def _way(way: dict[str, Any], head: dict[str, Any]) -> str:
    """What is not the first way's."""
    from qsim.post_training.how import from_json

    how = way["quantization"]
    parts = [f"{way['model']}, {way['policy']}" if way["model"] != head["ways"][0]["model"] else way["policy"]]
    parts += [] if how is None else [str(from_json(how))]
    parts += [] if how is None or how["scheme"] is None else [f"dequantized to {how['dequantize_to']}"]
    return "; ".join(parts)


def _summary(one: Evaluation, compared: Comparison | None) -> dict[str, Any]:
    text = one.text
    bits = None if text is None else text.bits_per_byte
    return {
        "arithmetic": one.name,
        "loss": None if text is None else f"{text.loss:.5f}",
        "perplexity": None if text is None else f"{text.perplexity:.5g}",
        "bits/byte": None if bits is None else f"{bits:.5f}",
        "loss - pre (95 %)": None if compared is None else _span(compared.delta_loss),
        "degradation (95 %)": None if compared is None else _span(compared.degradation, percent=True),
    }


def _task_rows(found: Sequence[Evaluation], compared: Sequence[Comparison]) -> Iterator[dict[str, Any]]:
    from qsim.evaluation.items import METRICS

    tasks = found[0].tasks
    metrics = [name for name in METRICS if any(name in score.task.metrics for score in tasks)]
    for i, task in enumerate(tasks):
        for one, other in zip(found, [None, *compared], strict=True):
            score, change = one.tasks[i], None if other is None else other.tasks[i]
            own = {name: _accuracy(score, name) for name in metrics}
            yield {
                "task": f"{task.task.name}, {len(score.answers)} items",
                "arithmetic": one.name,
                **own,
                "loss": f"{score.losses.mean():.4f}",
                **_change(change),
            }


def _change(change: TaskComparison | None) -> dict[str, Any]:
    if change is None:
        return dict.fromkeys(("(post - pre)/pre", "lost, gained", "McNemar p", "loss - pre (95 %)"))
    return {
        "(post - pre)/pre": None if change.change is None else f"{100 * change.change:+.2f} %",
        "lost, gained": f"{change.lost}, {change.gained}",
        "McNemar p": f"{change.p_value:.3g}",
        "loss - pre (95 %)": _span(change.delta_loss),
    }


def _accuracy(score: TaskScore, metric: str) -> str | None:
    if metric not in score.task.metrics:
        return None
    value, error = score.accuracy(metric)
    return f"{value:.4f}" if error is None else f"{value:.4f} +- {error:.4f}"


def _span(interval: Interval | None, *, percent: bool = False) -> str | None:
    if interval is None:
        return None
    scale, digits, unit = (100, 2, " %") if percent else (1, 5, "")
    value = f"{scale * interval.value:+.{digits}f}{unit}"
    if interval.low is None or interval.high is None:
        return value
    return f"{value} [{scale * interval.low:+.{digits}f}, {scale * interval.high:+.{digits}f}]"
