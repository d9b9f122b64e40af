"""Numbers of others, each with where it stands; drawn hollow and never mixed with measured rows."""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "Ahmadian et al. 2023, Intriguing Properties of Quantization at Scale (arXiv 2305.19268)"


@dataclass(frozen=True, kw_only=True)
class Published:
    """what: of which model and variant.  value: in the unit.  place: where in the source it stands."""

    what: str
    value: float
    unit: str
    place: str
    source: str = PAPER


_ACCURACY = "% mean decrease of zero-shot accuracy, INT8 weights and activations"
WEIGHT_DECAY = {
    0.1: Published(what="6B, bf16, decay 0.1", value=0.09, unit=_ACCURACY, place="section 4, Weight Decay"),
    0.001: Published(what="6B, bf16, decay 0.001", value=1.36, unit=_ACCURACY, place="section 4, Weight Decay"),
}
FP16_DECAY_001 = Published(what="6B, fp16, decay 0.01", value=1.73, unit=_ACCURACY, place="section 4, Weight Decay")
POSITIONS = Published(
    what="6B, largest difference among learned, sinusoidal and ALiBi positions",
    value=0.06,
    unit="percentage points of the above",
    place="section 4, Positional Embeddings",
)
FP16_OVER_BF16 = {
    "rmse": Published(what="fp16 over bf16, RMSE(X, X^)", value=6.9, unit="times", place="section 5, Activations"),
    "std_gain": Published(what="fp16 over bf16, STD(g)", value=2.0, unit="times", place="section 5, LayerNorm"),
    "spectral_norm": Published(
        what="fp16 over bf16, spectral norm", value=4.0, unit="times", place="section 5, Attention Projection Weights"
    ),
}
_WEIGHT_ONLY = "% decrease of accuracy, INT4 weights by columns"
INT4 = {
    "52B, 8 tasks": Published(
        what="52B, mean of 8 tasks", value=3.6, unit=_WEIGHT_ONLY, place="section 4, Transferability"
    ),
    "52B, LAMBADA": Published(what="52B, LAMBADA", value=8.6, unit=_WEIGHT_ONLY, place="section 4, Transferability"),
    "BLOOM-7B, LAMBADA": Published(
        what="BLOOM-7B, LAMBADA", value=18.7, unit=_WEIGHT_ONLY, place="section 4, quoting the GLM-130B report"
    ),
    "BLOOM-176B, LAMBADA": Published(
        what="BLOOM-176B, LAMBADA", value=29.5, unit=_WEIGHT_ONLY, place="section 4, quoting the GLM-130B report"
    ),
}
OPT_66B_INT8 = Published(
    what="OPT-66B, mean of LAMBADA, HellaSwag and PIQA",
    value=42.0,
    unit="% decrease of accuracy, INT8 weights and activations",
    place="section 4, Scaling Insights, quoting Dettmers et al. 2022",
)
SCALE = {  # parameters and what was lost, of Figure 1 as far as the text states it
    "paper, 6B": (6.1e9, WEIGHT_DECAY[0.1]),
    "paper, 52B": (
        52.4e9,
        Published(what="52B", value=0.24, unit=_ACCURACY, place="section 1; section 4 says a gain of 0.08"),
    ),
    "OPT-66B": (66e9, OPT_66B_INT8),
}
