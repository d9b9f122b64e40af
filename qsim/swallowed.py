"""Updates that left a parameter as it was: swallowed by the rounding of the format it is kept in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from precision.format import Format
from precision.formats import BF16, FP16
from precision.statistics import INFINITY
from qsim.arithmetic import Arithmetic
from qsim.config import OptimizerConfig
from qsim.optimizer import decay_of, gradient_direction, with_decay
from qsim.sites import Calculator

Array = Any
Rows = Callable[[str, Array], Array]
FORMATS = (FP16, BF16)
COUNTED = ("updates", "swallowed", "swallowed_directions", "decays", "swallowed_decays")


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one step did to the parameters.

    before: parameters at its start, by name.  after: ``parameters``, ``first`` and ``second`` at its end.
    scalars, keys: those the step was given.
    """

    before: dict[str, Any]
    after: dict[str, dict[str, Any]]
    scalars: dict[str, Any]
    keys: dict[str, Any] | None = None


def count_updates(ar: Calculator, config: OptimizerConfig, update: Update, rows: Rows) -> dict[str, Array]:
    """Exact counts by parameter, (L, 7) in the order of ``COUNTED`` and ``FORMATS``, of a step that was not skipped.

    With w the parameter before the step, d = m c1 / (sqrt(v c2) + eps) its direction, u = lr (d + decay w):
        updates: elements with lr (d + decay w) not zero.  swallowed: of these, those that kept every bit.
        swallowed_directions: of these, those with d not zero.
        decays: elements with lr decay w not zero.  swallowed_decays: of these, those that decay alone would have
            left as they are, w - lr (decay w) rounded as the step rounds (the same random words where it draws them).
        swallowed_in: updates that would be swallowed had parameters been kept in fp16 or bf16, by nearest even:
            round(round(w) - u) has the bits of round(w).
    rows: a parameter and its name -> (L, ...), the rows that are counted apart.
    Domain: elements before the step that are not finite, in the format in question, count nowhere.  A product with lr
    is zero where a factor is, whether or not float32 flushes it; +0 turned -0 has changed.
    Exactness: w, d and u are those of the step bit for bit, in float32 that flushes subnormals, where the policy
    promises bits; they are computed again from the moments it left.
    """
    ar.draw_from(update.keys)
    before = update.before if ar.policy.has_master else ar.working_copy(update.before)
    return {
        name: ar.xp.stack([_in_rows(rows(name, flags)) for flags in _flags(ar, config, name, w, update)], axis=1)
        for name, w in before.items()
    }


def _in_rows(flags: Array) -> Array:
    return flags.sum(axis=tuple(range(1, flags.ndim)))


def _flags(ar: Calculator, config: OptimizerConfig, name: str, w: Array, update: Update) -> list[Array]:
    """Of every element of a parameter, whether it counts, in that order."""
    f, rate, decay, bits = ar.float32, update.scalars["learning_rate"], decay_of(config, name), ar.backend.to_bits
    new, first, second = (update.after[part][name] for part in ("parameters", "first", "second"))
    direction = gradient_direction(ar, config, first, second, update.scalars)
    total = with_decay(ar, direction, w, decay)
    alone = f.subtract(w, f.multiply(f.multiply(w, f.scalar(decay)), rate))
    decayed = ar.updated({name: alone})[name]
    moves = _is_finite(bits(w)) & (rate != 0)
    updates, decays = moves & _is_not_zero(bits(total)), moves & _is_not_zero(bits(w)) & (decay != 0)
    lost, shift = updates & (bits(w) == bits(new)), f.multiply(total, rate)
    return [
        updates,
        lost,
        lost & _is_not_zero(bits(direction)),
        decays,
        decays & (bits(w) == bits(decayed)),
        *(updates & _lost_in(ar, fmt, w, shift) for fmt in FORMATS),
    ]


def _lost_in(ar: Calculator, fmt: Format, w: Array, shift: Array) -> Array:
    """Where w kept in a format would not be moved by - shift."""
    bits, kept = ar.backend.to_bits, ar.backend.round_to(w, fmt)
    moved = ar.backend.round_to(ar.float32.subtract(kept, shift), fmt)
    return _is_finite(bits(kept)) & (bits(kept) == bits(moved))


# By patterns: a device may take subnormal numbers for zero where it compares floats


def _is_not_zero(u: Array) -> Array:
    return u & np.uint32(0x7FFFFFFF) != 0


def _is_finite(u: Array) -> Array:
    return u & np.uint32(INFINITY) != np.uint32(INFINITY)


# On the host


def as_json(policy: Arithmetic, sizes: dict[str, int], counts: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """By tensor ``format``, in which parameters are kept, that of the master where there is one, ``count``, its
    elements, and its counts by name."""
    kept_in = policy.stages.master.format
    return {name: {"format": kept_in, "count": sizes[name], **_named(counts[name])} for name in sorted(counts)}


def _named(counts: np.ndarray) -> dict[str, Any]:
    plain, lost_in = counts.tolist()[: len(COUNTED)], counts.tolist()[len(COUNTED) :]
    in_formats = dict(zip((fmt.name for fmt in FORMATS), lost_in, strict=True))
    return dict(zip(COUNTED, plain, strict=True)) | {"swallowed_in": in_formats}
