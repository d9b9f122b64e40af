"""A scale of a layer of width 16 and six steps, under the name of the smallest one that users have."""

from __future__ import annotations

from small_runs import SMALL as SMALL_RUN

from experiments.scales import Scale
from qsim.config import override_all, preset

TINY = Scale(
    name="smoke",
    config=override_all(preset("tiny"), (SMALL_RUN | {"model.layers": 1, "record.hash_every": 2}).items()),
    seeds=1,
    sequences=3,
)
