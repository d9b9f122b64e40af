"""A calculator that also records the roundings inside chosen sites, not their outputs alone.

Where a policy computes inside a site in a narrow format, most of what is lost is lost before the output, whose own
rounding then finds nothing left to round.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from precision.formats import FP32, Format
from qsim.policy import Arithmetic
from qsim.recorders import Recorder
from qsim.site import Site
from qsim.site_policy import Pass
from qsim.sites import Calculator

Array = Any
SUFFIX = "roundings"


class InnerRecording(Calculator):
    """``Calculator`` whose recorder gets, of every site in ``inside``, all roundings as ``site.pass.roundings``.

    Those of single operations, of additions within sums and of the output alike; roundings to float32 are none.  The
    results are the bits that ``Calculator`` gives.
    """

    def __init__(self, policy: Arithmetic, backend: str, recorder: Recorder, inside: Collection[str]) -> None:
        super().__init__(policy, backend, recorder)
        self._inside = frozenset(inside)

    def at(self, site: str, direction: Pass) -> Site:
        if site not in self._inside:
            return super().at(site, direction)
        plain = self.backend
        self.backend = _RecordingBackend(self, plain, f"{site}.{direction}.{SUFFIX}")  # which the new site keeps
        try:
            return super().at(site, direction)
        finally:
            self.backend = plain


class _RecordingBackend:
    """A back end as one site sees it."""

    def __init__(self, calculator: Calculator, backend: Any, key: str) -> None:
        self._calculator, self._backend, self._key = calculator, backend, key

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def round_to(self, x: Array, fmt: Format, *how: Any) -> Array:
        rounded = self._backend.round_to(x, fmt, *how)
        recorder = self._calculator.recorder  # none in what is computed a second time
        if recorder is not None and fmt is not FP32:
            recorder.record(self._backend, self._key, x, rounded, fmt)
        return rounded
