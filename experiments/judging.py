"""From rows to a verdict, by rules that are the same for every experiment.

Nothing is told (*cannot be told at this scale*) where there are fewer than three seeds, where a variant did not learn
(loss before quantization above 0.8 of the unigram entropy of the text), where a loss is no number, or where a
variant's loss before quantization lies more than 2 % from its control's (experiments name exceptions to this one, as
the paper does dropout 0.8).

A claim that A degrades more than B is *reproduced* where the 95 % interval of the paired difference lies above 0;
*not reproduced* where it lies below 0, or wholly within 0.06 percentage points of 0, which is what the paper itself
calls no notable difference; and cannot be told otherwise.  An experiment of several comparisons is reproduced where
all are, not reproduced where one is not, and cannot be told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.quantizing import INT8
from experiments.results import CLOSE, LEARNED, Results
from experiments.statistics import FEWEST_SEEDS, Interval

Outcome = Literal["reproduced", "not reproduced", "cannot be told at this scale"]
REPRODUCED: Outcome = "reproduced"
NOT_REPRODUCED: Outcome = "not reproduced"
UNTOLD: Outcome = "cannot be told at this scale"
NOTABLE = 0.06  # percentage points: the paper's positional embeddings "were within 0.06% of another"
LARGER = 1.05  # times: the least that is taken for larger, where the paper has 2 to 6.9


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """An outcome and one line that says why."""

    outcome: Outcome
    reason: str

    def __str__(self) -> str:
        return f"{self.outcome}: {self.reason}"


def untold(results: Results, except_for: Sequence[str] = ()) -> Verdict | None:
    """Why nothing is told, None where something can be; ``except_for``: labels whose loss may lie apart."""
    reasons = unfit(results, except_for)
    if results.seeds < FEWEST_SEEDS:
        reasons.insert(0, f"{results.seeds} seed(s), and a verdict takes {FEWEST_SEEDS}")
    return Verdict(outcome=UNTOLD, reason="; ".join(reasons)) if reasons else None


def unfit(results: Results, except_for: Sequence[str] = ()) -> list[str]:
    """What is wrong with the losses before quantization, a sentence a variant of which nothing can be told."""
    found = (_unfit(results, label, label in except_for) for label in results.labels)
    return [reason for reason in found if reason is not None]


def _unfit(results: Results, label: str, excepted: bool) -> str | None:
    if not np.isfinite(results.losses(label)).all():
        return f"the loss of {label} is no number"
    if (share := results.learned(label)) > LEARNED:
        what = "learned too little" if share <= 1 else "did not train"
        return f"{label} {what}, its loss is {share:.2f} of the unigram entropy (limit {LEARNED})"
    if not excepted and (apart := results.apart(label)) is not None and abs(apart) > CLOSE:
        control = results.variant(label).control
        return f"before quantization {label} lies {100 * apart:+.1f} % from {control} (limit {100 * CLOSE:.0f} %)"
    return None


def unless(told: Verdict | None, found: Callable[[], Verdict]) -> Verdict:
    """What is found; where something stands against telling, that, and what is found beside it."""
    return found() if told is None else Verdict(outcome=told.outcome, reason=f"{told.reason}; {found().reason}")


def more(results: Results, higher: str, lower: str, scheme: str = INT8) -> Verdict:
    """Whether one variant degrades more than another."""
    found = results.difference(higher, lower, scheme)
    p = results.sign(higher, lower, scheme)
    text = f"{higher} minus {lower}: {found} points" + ("" if p is None else f", sign test p = {p:.3f}")
    return Verdict(outcome=above_zero(found), reason=text)


def ratio_verdict(results: Results, over: str, under: str, name: str, words: str) -> Verdict:
    """Whether a metric of what enters or makes up ``attn-kqv-proj`` is larger in one variant by 5 % or more."""
    found = results.ratio(over, under, name)
    reason = f"{words}, {over} over {under}: {found.plain}"
    if found.low is None or found.high is None:
        return Verdict(outcome=UNTOLD, reason=reason)
    if found.low > LARGER:
        return Verdict(outcome=REPRODUCED, reason=reason)
    return Verdict(outcome=NOT_REPRODUCED if found.high < LARGER else UNTOLD, reason=reason)


def above_zero(found: Interval) -> Outcome:
    if found.low is None or found.high is None:
        return UNTOLD
    if found.low > 0:
        return REPRODUCED
    return NOT_REPRODUCED if found.high < 0 or alike(found) else UNTOLD


def alike(found: Interval) -> bool:
    """Whether an interval lies within what the paper calls no notable difference."""
    return found.low is not None and found.high is not None and found.low > -NOTABLE and found.high < NOTABLE


def all_of(verdicts: Sequence[Verdict]) -> Verdict:
    """Reproduced where all are; otherwise the worst, and what was said of it."""
    for outcome in (NOT_REPRODUCED, UNTOLD):
        reasons = [verdict.reason for verdict in verdicts if verdict.outcome == outcome]
        if reasons:
            return Verdict(outcome=outcome, reason="; ".join(reasons))
    return Verdict(outcome=REPRODUCED, reason="; ".join(verdict.reason for verdict in verdicts))
