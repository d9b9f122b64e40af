"""The headline of a report: one sentence, true to the runs whatever they lack."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qsim.report.findings import compare_hashes, count, differences, last_shared_step, loss, plural, share, signed
from qsim.report.recorded import Run

__all__ = ["headline", "scheme_name"]

_GRADIENTS = ("dgrad", "wgrad")
_WORTH_SAYING = 0.001  # a share of underflow below this stays out
_CLAUSES = 3  # replays named


def headline(base: Run, replays: Sequence[Run], shadows: Sequence[Run] = ()) -> str:
    """One sentence, every part of it read off the runs."""
    named = _most_telling(base, replays)
    clauses = [_about_base(base, alone=not replays), *(_about_replay(base, replay) for replay in named)]
    if left := len(replays) - len(named):
        clauses.append(f"{plural(left, 'other replay')} {'is' if left == 1 else 'are'} in the table")
    clauses.append(_about_shadows(base, shadows))
    clauses.append(_about_quantization(base))
    return "; ".join(clause for clause in clauses if clause) + "."


def _most_telling(base: Run, replays: Sequence[Run]) -> list[Run]:
    """At most three: those that broke, then those farthest from the base; in the order given."""

    def distance(index: int) -> float:
        last = last_shared_step(base, replays[index])
        return math.inf if last is None else abs(differences(base, replays[index]).get(last, math.inf))

    chosen = sorted(range(len(replays)), key=distance, reverse=True)[:_CLAUSES]
    return [replays[index] for index in sorted(chosen)]


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
    return f"{base.label} took the loss from {loss(base.losses[first])} to {ended} in {count(last)} steps"


def _about_replay(base: Run, replay: Run) -> str:
    last = last_shared_step(base, replay)
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
        since = f"from step {_broke_at(replay)} on" if last == replay.last_step else f"at step {last}"
        return f"{replay.label} had no finite loss {since}"
    difference = differences(base, replay).get(last)
    if difference is None:
        return f"{replay.label} was at {loss(replay.losses[last])} at step {last}"
    side = "above" if difference > 0 else "below"
    place = f"at a loss {_rounded(abs(difference))} {side}" if difference else "level with"
    where = "" if last == base.last_step else f" at step {last}"
    return f"{replay.label} {'was' if where else 'ended'} {place} {base.label}{where}"


def _what_it_lost(replay: Run) -> str:
    lost = []
    under, counted = (replay.total(name, _GRADIENTS) for name in ("underflowed", "nonzero"))
    if counted and under >= _WORTH_SAYING * counted:
        lost.append(f"lost {share(under, counted)} of its gradient values to underflow")
    if replay.skipped:
        lost.append(f"skipped {plural(len(replay.skipped), 'step')}")
    return "".join(f" and {words}" for words in lost)


def _about_shadows(base: Run, shadows: Sequence[Run]) -> str:
    """The worst step of all of them."""
    errors = [
        (error, step, shadow)
        for shadow in shadows
        for step, error in shadow.column("gradient_error").items()
        if math.isfinite(error)
    ]
    if not errors:
        return "no step of a shadow had finite gradients" if any(shadow.losses for shadow in shadows) else ""
    error, step, shadow = max(errors, key=lambda found: found[0])
    if not error:
        return f"from the same weights, no gradient differed from those of {base.label}"
    return f"from the same weights, the gradients of {shadow.label} lay up to {_percent(error)} off, at step {step}"


def _percent(value: float) -> str:
    """A positive ratio to two significant digits."""
    return f"{_rounded(100 * value)}\u00a0%"


def _about_quantization(base: Run) -> str:
    losses = (base.quantization or {}).get("validation_loss") or {}
    before, after = losses.get("before"), losses.get("after")
    if before is None or after is None:
        return ""
    change = after - before
    if not math.isfinite(change):
        return f"{scheme_name(base)} took the held-out loss of {base.label} from {loss(before)} to {loss(after)}"
    if not change:
        return f"{scheme_name(base)} after training left the held-out loss of {base.label} as it was"
    moved = "raised" if change > 0 else "lowered"
    amount = _rounded(abs(change))
    return f"{scheme_name(base)} after training {moved} the held-out loss of {base.label} by {amount}"


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
