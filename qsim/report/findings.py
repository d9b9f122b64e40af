"""What recorded runs say: numbers as a reader wants them, formats as bands, one run beside another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from precision.formats import BF16, E4M3FN, E5M2, FP16, FP32
from qsim.report.recorded import HASHED, Run, Site

__all__ = [
    "Band",
    "bands",
    "compare_hashes",
    "compare_losses",
    "count",
    "differences",
    "last_shared_step",
    "loss",
    "plural",
    "power_of_two",
    "reservations",
    "share",
    "short",
    "signed",
    "worst_sites",
]

_NBSP = "\u00a0"
_MINUS = "\u2212"
_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


# Numbers as a reader wants them.


def loss(value: float | None) -> str:
    """Four decimals; large values by significant digits; NaN and infinity by name."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "infinite"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def signed(value: float | None) -> str:
    """A difference with its sign; below 0.0001 as a power of ten."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    sign, size = (_MINUS if value < 0 else "+"), abs(value)
    if 0.0001 <= size < 1000:
        return f"{sign}{size:.4f}"
    digits, exponent = f"{size:.1e}".split("e")
    return f"{sign}{digits}{_NBSP}×{_NBSP}10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def short(value: float | None) -> str:
    """Three significant digits."""
    if value is None or not math.isfinite(value):
        return "–" if value is None else loss(value)
    return f"{value:.3g}" if not value or abs(value) >= 0.0001 else signed(value).removeprefix("+")


def share(part: int, whole: int) -> str:
    """Per cent to two digits; "0" and "100 %" only where they are exact."""
    if whole == 0:
        return "–"
    if part == 0:
        return "0"
    percent = 100 * part / whole
    if percent < 0.0001:
        return f"<{_NBSP}0.0001{_NBSP}%"
    if part < whole and percent >= 99.95:
        return f">{_NBSP}99.9{_NBSP}%"
    digits = f"{percent:.1f}" if 10 <= percent < 100 else f"{percent:.2g}" if percent < 10 else "100"
    return f"{digits}{_NBSP}%"


def count(value: int) -> str:
    return f"{value:,}"


def plural(number: int, noun: str) -> str:
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def power_of_two(exponent: float) -> str:
    return "2" + str(round(exponent)).translate(_SUPERSCRIPTS)


# Formats as bands of exponents.


@dataclass(frozen=True, kw_only=True)
class Band:
    """The exponents a format can hold."""

    name: str
    smallest: int  # of the smallest subnormal
    normal: int  # of the smallest normal value
    largest: int

    def outside(self, exponents: Mapping[int, int]) -> int:
        return sum(n for e, n in exponents.items() if not self.smallest <= e <= self.largest)

    def place(self, exponent: int) -> str:
        """Where a value of this exponent lies in the format."""
        if not self.smallest <= exponent <= self.largest:
            return "below" if exponent < self.smallest else "above"
        return "subnormal" if exponent < self.normal else "normal"

    def subnormal(self, exponents: Mapping[int, int]) -> int:
        return sum(n for e, n in exponents.items() if self.smallest <= e < self.normal)


def bands() -> tuple[Band, ...]:
    """fp16, by which values are coloured, then the wider and the 8-bit formats."""
    return tuple(
        Band(
            name=name,
            smallest=record.min_subnormal_exponent,
            normal=record.min_normal_exponent,
            largest=record.max_exponent,
        )
        for name, record in (("fp16", FP16), ("bf16", BF16), ("fp32", FP32), ("e5m2", E5M2), ("e4m3fn", E4M3FN))
    )


# One run beside another.


def differences(base: Run, replay: Run) -> dict[int, float]:
    """Loss of the replay minus loss of the base at every step where both are finite."""
    pairs = {step: (loss, base.losses[step]) for step, loss in replay.losses.items() if step in base.losses}
    return {step: a - b for step, (a, b) in pairs.items() if math.isfinite(a) and math.isfinite(b)}


def compare_losses(base: Run, replay: Run) -> str:
    """The difference at the last step both have, and which step that is where it is not the base's last."""
    last = last_shared_step(base, replay)
    if last is None:
        return "–"
    words = signed(differences(base, replay).get(last))
    return words if last == base.last_step else f"{words} at step{_NBSP}{last}"


def compare_hashes(base: Run, replay: Run) -> str:
    """The first step whose hashes differ, and what differs there where not everything does."""
    shared = [step for step in base.hashes if _shared_parts(base.hashes[step], replay.hashes.get(step, {}))]
    if not shared:
        return "not recorded"
    for step in shared:
        if parts := _parts_that_differ(base.hashes[step], replay.hashes[step]):
            whole = len(parts) == len(_shared_parts(base.hashes[step], replay.hashes[step]))
            return f"step{_NBSP}{step}" + ("" if whole else f" ({', '.join(parts)})")
    if set(base.losses) <= set(shared):
        return "equal at every step"
    return f"equal at all {count(len(shared))} steps compared" if len(shared) > 1 else "equal at the step compared"


def _parts_that_differ(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    return [part for part in _shared_parts(a, b) if a[part] != b[part]]


def _shared_parts(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    return [part for part in HASHED if part in a and part in b]


def last_shared_step(base: Run, replay: Run) -> int | None:
    """The last step at which both have a loss."""
    return max((step for step in replay.losses if step in base.losses), default=None)


def worst_sites(sites: Iterable[Site]) -> list[Site]:
    """Sites by the share of nonzero values they lose to underflow and overflow, the largest first."""
    return sorted(sites, key=lambda site: -site.lost() / max(1, site.counts["nonzero"]))


def reservations(base: Run, replays: Sequence[Run]) -> list[str]:
    """What makes a comparison unfair: other data, another seed, another model."""
    facts: dict[str, Callable[[Run], object]] = {
        "on other data than": lambda run: run.data.get("sha256"),
        "with another seed than": lambda run: run.config.get("seed"),
        "with another model than": lambda run: run.config.get("model"),
    }
    return [
        f"{replay.label} was run {words} {base.label}, so their difference is not rounding alone."
        for replay in replays
        for words, fact in facts.items()
        if fact(replay) != fact(base)
    ]
