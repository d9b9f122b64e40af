"""What recorded runs say, in words and rows: shares, differences, the headline of a report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from precision.formats import BF16, FP16, FP32
from qsim.recorded import HASHED, Run, Site

__all__ = [
    "Band",
    "bands",
    "compare_hashes",
    "compare_losses",
    "count",
    "differences",
    "headline",
    "loss",
    "power_of_two",
    "reservations",
    "scheme_name",
    "share",
    "signed",
    "worst_sites",
]

_NBSP = "\u00a0"
_MINUS = "\u2212"
_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_GRADIENTS = ("dgrad", "wgrad")
_WORTH_SAYING = 0.001  # a share of underflow below this stays out of the headline
_CLAUSES = 3  # replays named in the headline


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

    def subnormal(self, exponents: Mapping[int, int]) -> int:
        return sum(n for e, n in exponents.items() if self.smallest <= e < self.normal)


def bands() -> tuple[Band, ...]:
    """fp16, bf16 and fp32, the narrowest first."""
    return tuple(
        Band(
            name=name,
            smallest=record.min_subnormal_exponent,
            normal=record.min_normal_exponent,
            largest=record.max_exponent,
        )
        for name, record in (("fp16", FP16), ("bf16", BF16), ("fp32", FP32))
    )


# One run beside another.


def differences(base: Run, replay: Run) -> dict[int, float]:
    """Loss of the replay minus loss of the base at every step where both are finite."""
    pairs = {step: (loss, base.losses[step]) for step, loss in replay.losses.items() if step in base.losses}
    return {step: a - b for step, (a, b) in pairs.items() if math.isfinite(a) and math.isfinite(b)}


def compare_losses(base: Run, replay: Run) -> str:
    """The difference at the last step both have, and which step that is where it is not the base's last."""
    last = _last_shared(base, replay)
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
    whole = len(shared) == len(base.hashes)
    return "equal at every step" if whole else f"equal at all {count(len(shared))} shared steps"


def _parts_that_differ(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    return [part for part in _shared_parts(a, b) if a[part] != b[part]]


def _shared_parts(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    return [part for part in HASHED if part in a and part in b]


def _last_shared(base: Run, replay: Run) -> int | None:
    return max((step for step in replay.losses if step in base.losses), default=None)


def worst_sites(sites: Iterable[Site]) -> list[Site]:
    """Sites by the share of nonzero values they lose to underflow and overflow, the largest first."""
    return sorted(sites, key=lambda site: -site.lost() / max(1, site.counts["nonzero"]))


def reservations(base: Run, replays: Sequence[Run]) -> list[str]:
    """What makes a comparison unfair: other data, another seed, another model."""
    facts = {
        "data": lambda run: run.data.get("sha256"),
        "seed": lambda run: run.config.get("seed"),
        "model": lambda run: run.config.get("model"),
    }
    return [
        f"{replay.label} has another {name} than {base.label}: their difference is not rounding alone."
        for replay in replays
        for name, fact in facts.items()
        if fact(replay) != fact(base)
    ]


# The headline.


def headline(base: Run, replays: Sequence[Run]) -> str:
    """One sentence, every part of it read off the runs."""
    named = _most_telling(base, replays)
    clauses = [_about_base(base, alone=not replays), *(_about_replay(base, replay) for replay in named)]
    if left := len(replays) - len(named):
        clauses.append(f"{_plural(left, 'other replay')} {'is' if left == 1 else 'are'} in the table")
    clauses.append(_about_quantization(base))
    sentence = (
        "; ".join(clause for clause in clauses if clause)
        or f"{base.label} recorded {_plural(base.last_step, 'step')}"
    )
    return ("T" + sentence[1:] if sentence.startswith("the ") else sentence) + "."


def _most_telling(base: Run, replays: Sequence[Run]) -> list[Run]:
    """At most three: those that broke, then those farthest from the base; in the order given."""

    def distance(replay: Run) -> float:
        last = _last_shared(base, replay)
        return math.inf if last is None else abs(differences(base, replay).get(last, math.inf))

    chosen = sorted(replays, key=distance, reverse=True)[:_CLAUSES]
    return [replay for replay in replays if replay in chosen]


def _about_base(base: Run, *, alone: bool) -> str:
    if not base.losses:
        return f"{base.label} has recorded no step yet"
    first, last = min(base.losses), base.last_step
    ended = loss(base.losses[last])
    if not math.isfinite(base.losses[last]):
        return f"{base.label} had no finite loss from step {_broke_at(base)} on"
    if base.interrupted:
        return f"{base.label} stopped at step {last} of {base.planned} with a loss of {ended}"
    if not alone:
        return ""  # the replays are told by their distance to it
    if last == first:
        return f"{base.label} had a loss of {ended} at step {last}, its only one"
    return f"{base.label} took the loss from {loss(base.losses[first])} to {ended} in {last} steps"


def _about_replay(base: Run, replay: Run) -> str:
    last = _last_shared(base, replay)
    if last is None:
        return f"{replay.label} shares no step with {base.label} yet"
    if compare_hashes(base, replay).startswith("equal"):
        return f"{replay.label} is equal to {base.label} bit for bit, {_where_equal(base, replay)}"
    return f"{_where_it_ended(base, replay, last)}{_what_it_lost(replay)}"


def _where_equal(base: Run, replay: Run) -> str:
    words = compare_hashes(base, replay).removeprefix("equal ")
    return words if replay.last_step == base.last_step else f"{words}, and ran to step {replay.last_step}"


def _where_it_ended(base: Run, replay: Run, last: int) -> str:
    if not math.isfinite(replay.losses[last]):
        return f"{replay.label} had no finite loss from step {_broke_at(replay)} on"
    difference = differences(base, replay).get(last)
    if difference is None:
        return f"{replay.label} was at {loss(replay.losses[last])} at step {last}"
    side = "above" if difference > 0 else "below"
    place = f"{_rounded(abs(difference))} {side}" if difference else "level with"
    where = "" if last == base.last_step else f" at step {last}"
    return f"{replay.label} {'was' if where else 'ended'} {place} {base.label}{where}"


def _what_it_lost(replay: Run) -> str:
    lost = []
    under, counted = (replay.total(name, _GRADIENTS) for name in ("underflowed", "nonzero"))
    if counted and under >= _WORTH_SAYING * counted:
        lost.append(f"lost {share(under, counted)} of its gradient values to underflow")
    if replay.skipped:
        lost.append(f"skipped {_plural(len(replay.skipped), 'step')}")
    return "".join(f" and {words}" for words in lost)


def _about_quantization(base: Run) -> str:
    losses = (base.quantization or {}).get("validation_loss") or {}
    before, after = losses.get("before"), losses.get("after")
    if before is None or after is None:
        return ""
    change = after - before
    if not math.isfinite(change):
        return (
            f"{scheme_name(base)} took the held-out loss of {base.label} from {loss(before)} to {loss(after)}"
        )
    if not change:
        return f"{scheme_name(base)} after training left the held-out loss of {base.label} as it was"
    moved = "raised" if change > 0 else "lowered"
    return f"{scheme_name(base)} after training {moved} the held-out loss of {base.label} by {_rounded(abs(change))}"


def scheme_name(base: Run) -> str:
    """int8_vectorwise -> INT8."""
    return str((base.quantization or {}).get("scheme") or "int8").split("_")[0].upper()


def _broke_at(run: Run) -> int:
    """The first step of the last unbroken stretch of losses that are not finite."""
    finite = [step for step, value in run.losses.items() if math.isfinite(value)]
    return min(step for step in run.not_finite if step > max(finite, default=-1))


def _rounded(value: float) -> str:
    """A positive number to two significant digits."""
    if 0.0001 <= value < 1000:
        return f"{value:.2g}" if value < 10 else f"{value:.0f}"
    return signed(value).lstrip("+")


def _plural(number: int, noun: str) -> str:
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"
