"""Fine-tuning (the paper's future work): does the good recipe repair a checkpoint that the bad one left?

Claim: a model that a bad recipe left sensitive to INT8 becomes less so when it is trained on by the good one: bf16,
weight decay 0.1, clipped at 1 (the paper asks it, "the impact of finetuning with the recommended optimization
choices", and leaves it open).

Rule, written before it was run: the bad recipes are *fp16, decay 0.01* and *decay 0.001, no clipping*.  Each of their
last weights is trained on twice, with moments at zero and the whole schedule anew over the same batches: by the good
recipe, and by its own.  A bad recipe counts where its checkpoint degrades more under vector-wise INT8 than the good
one's by the rule of ``experiments.judging``; where neither does there is nothing to be repaired, and nothing can be
told.  *Reproduced* where for each that counts what was trained on by its own recipe degrades more than what was by
the good one; *not reproduced* and cannot be told by the same rule.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from experiments.drawing import bars, figure, over_steps
from experiments.experiment import Experiment
from experiments.judging import REPRODUCED, UNTOLD, Verdict, all_of, more, unless, untold
from experiments.results import Results
from experiments.variant import Variant

GOOD = "good"
RECIPES = {
    GOOD: ("bf16", 0.1, 1.0),
    "fp16, decay 0.01": ("fp16", 0.01, 1.0),
    "decay 0.001, no clipping": ("bf16", 0.001, None),
}
BAD = [name for name in RECIPES if name != GOOD]


def trained_on(first: str, then: str) -> str:
    return f"{first}, then {'its own' if then == first else then}"


def _variant(label: str, recipe: str, control: str | None, start: Variant | None = None) -> Variant:
    policy, decay, clip = RECIPES[recipe]
    changes = (("optimizer.weight_decay", decay), ("optimizer.clip", clip))
    return Variant(label=label, changes=changes, policy=policy, control=control, start=start)


FIRST = {name: _variant(name, name, None if name == GOOD else GOOD) for name in RECIPES}
BETTER = trained_on(GOOD, GOOD)
VARIANTS = [
    *FIRST.values(),
    _variant(BETTER, GOOD, None, FIRST[GOOD]),
    *(_variant(trained_on(name, then), then, BETTER, FIRST[name]) for name in BAD for then in (name, GOOD)),
]


def judge(results: Results) -> Verdict:
    return unless(untold(results), lambda: _judged(results))


def _judged(results: Results) -> Verdict:
    worse = [name for name in BAD if more(results, name, GOOD).outcome == REPRODUCED]
    if not worse:
        reasons = "; ".join(more(results, name, GOOD).reason for name in BAD)
        return Verdict(outcome=UNTOLD, reason=f"there is nothing to repair: {reasons}")
    return all_of([more(results, trained_on(name, name), trained_on(name, GOOD)) for name in worse])


def draw(results: Results) -> Figure:
    drawn, axes = figure(2, width=5.2, height=4.2)
    names = [label.replace(", then", ",\nthen").replace(", no", ",\nno") for label in results.labels]
    bars(axes[0, 0], names, list(map(results.degraded, results.labels)), "after INT8")
    axes[0, 0].tick_params(axis="x", labelrotation=60, labelsize=7)
    later = [label for label in results.labels if label not in FIRST]
    over_steps(axes[0, 1], results, later, "while trained on")
    for label, style in zip(FIRST, ("--", ":", "-."), strict=True):
        place = results.degraded(label).mean
        axes[0, 1].axhline(place, linestyle=style, linewidth=1, color="black", label=f"{label}, where it began")
    axes[0, 1].legend(frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    return drawn


EXPERIMENT = Experiment(
    name="finetune",
    claim="training on by the good recipe repairs what a bad one left sensitive to INT8",
    paper="section 7, Limitations and Future Work",
    variants=VARIANTS,
    judge=judge,
    draw=draw,
)
