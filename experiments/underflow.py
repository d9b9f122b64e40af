"""Underflow (section 4, Half-precision): does what fp16 loses below its range explain what INT8 costs afterwards?

Claim: the paper relates fp16's degradation to numerical stability: fp16 has 5 bits of exponent, denormals allow for a
soft underflow, "this makes underflow more of a concern".  If so, variants of fp16 that lose more in training degrade
more under INT8: subnormals kept or flushed to zero, times loss scale none, constant (2^16) or dynamic, against bf16.

Rule, written before it was run: the claim is about *fp16, flushed, no scale*, which loses most.  Where it does not
lose at least ten times the share of gradients that *fp16, kept, dynamic scale* does, nothing can be told.  Otherwise
*reproduced* where it degrades more under vector-wise INT8 than bf16 and more than *fp16, kept, dynamic scale*, by the
rule of ``experiments.judging``.  Said beside the verdict, and no part of the rule: how the variant that lost most of
those that may be compared differs from bf16.

Gradients are counted in the sampled steps of every run (a tenth of them): values that became zero, and subnormal, by
site and pass, layers together.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.comparable import comparable
from experiments.drawing import COLOURS, bars, figure
from experiments.experiment import Experiment
from experiments.judging import UNTOLD, Verdict, all_of, more, unless, untold
from experiments.results import Results
from experiments.variant import Variant
from qsim.policy import POLICIES, Arithmetic, LossScaling

SCALINGS = {
    "no scale": LossScaling(),
    "static scale": LossScaling(mode="static", initial=2.0**16),
    "dynamic scale": POLICIES["fp16"].loss_scaling,
}
SUBNORMALS = {"kept": POLICIES["fp16"], "flushed": POLICIES["fp16-flush"]}
BF16, MOST, LEAST = "bf16", "fp16, flushed, no scale", "fp16, kept, dynamic scale"
TIMES = 10  # by which the losses of the two have to differ


def _policy(base: Arithmetic, scaling: str) -> Arithmetic:
    name = f"{base.name}-{scaling.split()[0]}"
    return dataclasses.replace(base, name=name, loss_scaling=SCALINGS[scaling])


VARIANTS = [
    Variant(label=BF16),
    *(
        Variant(label=f"fp16, {kept}, {scaling}", policy=_policy(base, scaling), control=BF16)
        for kept, base in SUBNORMALS.items()
        for scaling in SCALINGS
    ),
]


def lost(results: Results, label: str) -> float:
    """Share of nonzero gradients that became zero, seeds together."""
    found = (
        results.training(label, "gradients_underflowed").sum() / results.training(label, "gradients_nonzero").sum()
    )
    return float(found)


def trained(results: Results, label: str) -> bool:
    """Whether it ended below the unigram entropy of the text, which a model that knows no context has."""
    return bool(results.learned(label) < 1)


def judge(results: Results) -> Verdict:
    found = unless(untold(results), lambda: _judged(results))
    return dataclasses.replace(found, reason=found.reason + _beside(results))


def _beside(results: Results) -> str:
    """Of the variant that lost most among those that learned and whose loss lies close to bf16's."""
    losses = {label: lost(results, label) for label in results.labels if comparable(results, label)}
    label = max(losses, key=losses.__getitem__, default=BF16)
    if label in (BF16, MOST):
        return ""
    return f"; {label}, most of those comparable, loses {losses[label]:.1e}: {more(results, label, BF16).reason}"


def _judged(results: Results) -> Verdict:
    most, least = lost(results, MOST), lost(results, LEAST)
    reason = f"{MOST} loses {most:.1e} of gradients, {LEAST} {least:.1e}"
    if most < TIMES * least or most == 0:
        return Verdict(outcome=UNTOLD, reason=reason)
    found = all_of([more(results, MOST, BF16), more(results, MOST, LEAST)])
    return Verdict(outcome=found.outcome, reason=f"{reason}; {found.reason}")


def draw(results: Results) -> Figure:
    drawn, axes = figure(3, width=4.2, height=5.6)
    labels = [label.replace("fp16, ", "").replace(", ", "\n") for label in results.labels]
    bars(
        axes[0, 0],
        labels,
        list(map(results.degraded, results.labels)),
        "after training: INT8 (hatched: did not train)",
    )
    _hatch_untrained(axes[0, 0], results)
    _shares(axes[0, 1], results, labels)
    _by_site(axes[0, 2], results)
    for one in axes[0, :2]:
        one.tick_params(axis="x", labelrotation=75)
    return drawn


def _hatch_untrained(axes: Any, results: Results) -> None:
    """What INT8 adds to a loss above the unigram entropy says nothing."""
    for patch, label in zip(axes.patches, results.labels, strict=False):  # behind the bars: the band
        if not trained(results, label):
            patch.set(hatch="////", edgecolor="black", alpha=0.6)
            text = f"did not train:\nloss {results.losses(label).mean():.1f}"
            place = patch.get_x() + patch.get_width() / 2
            axes.annotate(text, (place, axes.get_ylim()[1]), (0, -4), textcoords="offset points", ha="center",
                          va="top", fontsize=6)  # fmt: skip


def _shares(axes: Any, results: Results, labels: list[str]) -> None:
    shares = [lost(results, label) for label in results.labels]
    axes.bar(range(len(labels)), shares, color=[COLOURS[i % len(COLOURS)] for i in range(len(labels))])
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yscale("symlog", linthresh=1e-8)
    axes.set_ylim(0, 1)
    axes.set_title("in training: gradients that became zero")
    axes.set_ylabel("share of nonzero ones")


def _by_site(axes: Any, results: Results) -> None:
    """Share lost at every site and pass where something was, a column a variant."""
    rows = [row for label in results.labels for row in results.rows[label]]
    sites = sorted({name for row in rows for name, one in row["training"]["events"].items() if one["underflowed"]})
    if not sites:
        axes.set_title("nothing was lost at any site")
        return
    shares = np.array([[_share(results, label, site) for label in results.labels] for site in sites])
    with np.errstate(divide="ignore"):
        image = axes.imshow(np.log10(shares), aspect="auto", cmap="viridis", vmin=-8, vmax=0)
    axes.set_yticks(range(len(sites)), sites, fontsize=5.5)
    axes.set_xticks(
        range(len(results.labels)), [label.replace("fp16, ", "") for label in results.labels], rotation=75
    )
    axes.set_title("by site, log10 of the share (white: none)")
    axes.figure.colorbar(image, ax=axes)


def _share(results: Results, label: str, site: str) -> float:
    none = {"underflowed": 0, "nonzero": 0}
    found = [row["training"]["events"].get(site, none) for row in results.rows[label]]
    return sum(one["underflowed"] for one in found) / max(1, sum(one["nonzero"] for one in found))


def table(results: Results) -> list[dict[str, Any]]:
    lines = results.table()
    for line in lines:
        line["trained"] = "yes" if trained(results, line["variant"]) else "no"
        line["gradients that became zero"] = f"{lost(results, line['variant']):.2e}"
        line["skipped steps"] = int(results.training(line["variant"], "skipped_steps").sum())
    return lines


EXPERIMENT = Experiment(
    name="underflow",
    claim="what fp16 loses to underflow in training explains its degradation by INT8 afterwards",
    paper="section 4, Half-precision",
    variants=VARIANTS,
    judge=judge,
    draw=draw,
    table=table,
)
