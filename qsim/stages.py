"""What lies between gradients and parameters: reduction, unscaling, moments, master, write-back; scaling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from precision.formats import parse_format
from precision.rounding_modes import Mode, Rounding, Subnormals

STAGES = ("gradient_reduction", "unscale_clip", "moments", "master", "write_back")


@dataclass(frozen=True, kw_only=True)
class WriteBack:
    """How parameters are rounded to their working format.

    From the float32 master at the start of each step; or, where there is none, from the float32 result of the update
    at its end: there also ``stochastic``, by the bits of ``qsim.draws.write_back_keys``.
    """

    rounding: Mode = "nearest_even"
    subnormals: Subnormals = "keep"

    def __post_init__(self) -> None:
        Rounding(mode=self.rounding, subnormals=self.subnormals)


@dataclass(frozen=True, kw_only=True)
class Stage(WriteBack):
    """A step between the gradients and the parameters: float32 arithmetic, its results rounded once to a format."""

    format: str = "fp32"

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_format(self.format)
        if self.rounding == "stochastic":
            raise ValueError(
                "a stage has no key to round stochastically; write_back and the outputs of sites have one"
            )


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What follows the sites.

    gradient_reduction: sums over the reduction chunks.  unscale_clip: gradients over the loss scale; those times the
    clipping factor.  moments: both of AdamW as they are kept, which is as the update reads them.  master: parameters
    as they are kept; in the format of the working parameters there is no master beside them.
    """

    gradient_reduction: Stage = Stage()
    unscale_clip: Stage = Stage()
    moments: Stage = Stage()
    master: Stage = Stage()
    write_back: WriteBack = WriteBack()


@dataclass(frozen=True, kw_only=True)
class LossScaling:
    """Factor on the loss before the backward pass, divided out of the gradients after it.

    ``dynamic``: a step whose gradients are not all finite is skipped and the scale multiplied by ``backoff``, not
    below ``minimum``; after ``interval`` good steps in a row it is multiplied by ``growth``.  All powers of two.
    """

    mode: Literal["none", "static", "dynamic"] = "none"
    initial: float = 1.0
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 50
    minimum: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DelayedScaling:
    """Where scales of operands under ``scaling: delayed`` come from, as in TransformerEngine's recipe of that name.

    history: how many steps a tensor's scale looks back on; the largest magnitude of all of them counts.
    margin: exponents of two left free above it.
    Source: NVIDIA/TransformerEngine, common/recipe: DelayedScaling(margin=0, amax_history_len=1024,
    amax_compute_algo="max"); scales as powers of two as in its first versions.  There, too, values beyond the range
    saturate and a tensor without history has scale 1.  Here a step that is skipped leaves the histories as they were.
    """

    history: int = 1024
    margin: int = 0

    def __post_init__(self) -> None:
        if self.history < 1:
            raise ValueError(f"a history of {self.history} steps holds nothing; choose at least 1")
        if not 0 <= self.margin <= 64:
            raise ValueError(f"margin {self.margin} is outside 0 ... 64 exponents; choose one inside")


FLOAT32 = Stages()
_FLOAT64 = Stage(format="fp64")
FLOAT64 = Stages(gradient_reduction=_FLOAT64, unscale_clip=_FLOAT64, moments=_FLOAT64, master=_FLOAT64)
NO_SCALING = LossScaling()
DELAYED = DelayedScaling()
