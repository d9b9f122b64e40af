"""Updates that left a parameter as it was: swallowed by the rounding of the format it is kept in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from precision.backends import choose_backend
from precision.format import Format
from precision.formats import BF16, FP16
from qsim.arithmetic import Arithmetic
from qsim.config import OptimizerConfig
from qsim.hashing import unstack
from qsim.optimizer import decay_of, gradient_direction, with_decay
from qsim.sites import Calculator

FORMATS = (FP16, BF16)


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


def swallowed(policy: Arithmetic, config: OptimizerConfig, update: Update) -> dict[str, dict[str, Any]]:
    """Exact counts by parameter tensor, blocks unstacked, of a step that was not skipped.

    With w the parameter before the step, d = m c1 / (sqrt(v c2) + eps) its direction, u = lr (d + decay w):
        format: in which parameters are kept, that of the master where there is one.  count: elements.
        updates: those with lr (d + decay w) not zero.  swallowed: of these, those that kept every bit.
        swallowed_directions: of these, those with d not zero.
        decays: elements with lr decay w not zero.  swallowed_decays: of these, those that decay alone would have
            left as they are, w - lr (decay w) rounded as the step rounds (the same random words where it draws them).
        swallowed_in: updates that would be swallowed had parameters been kept in fp16 or bf16, by nearest even:
            round(round(w) - u) has the bits of round(w).
    Domain: host arrays.  Elements before the step that are not finite, in the format in question, count in ``count``
    alone.  A product with lr is zero where a factor is, whether or not float32 flushes it; +0 turned -0 has changed.
    Exactness: w, d and u are those of the step bit for bit, in float32 that flushes subnormals, where the policy
    promises bits; they are computed again from the moments it left.
    """
    ar = Calculator(policy, choose_backend(*update.before.values()).name)
    ar.draw_from(update.keys)
    before = update.before if policy.has_master else ar.working_copy(update.before)
    kept_in = policy.stages.master.format
    counts: dict[str, dict[str, Any]] = {}
    for name, w in before.items():
        parts = _one_tensor(ar, config, name, w, update)
        for part in parts["w"]:
            own = {key: tree[part] for key, tree in parts.items()}
            counts[part] = {"format": kept_in, **_counted(ar, own, update.scalars)}
    return dict(sorted(counts.items()))


def _one_tensor(
    ar: Calculator, config: OptimizerConfig, name: str, w: np.ndarray, update: Update
) -> dict[str, dict[str, np.ndarray]]:
    """All that is counted of a parameter, float32, each of them unstacked."""
    f, scalars, decay = ar.float32, update.scalars, decay_of(config, name)
    new, first, second = (update.after[part][name] for part in ("parameters", "first", "second"))
    direction = gradient_direction(ar, config, first, second, scalars)
    decayed = f.multiply(w, f.scalar(decay))
    alone = f.subtract(w, f.multiply(decayed, scalars["learning_rate"]))
    arrays = {
        "w": w,
        "new": new,
        "direction": direction,
        "total": with_decay(ar, direction, w, decay),
        "decaying": w if decay else np.zeros_like(w),
        "decayed": ar.updated({name: alone})[name],
    }
    return {key: unstack({name: array}) for key, array in arrays.items()}


def _counted(ar: Calculator, own: dict[str, np.ndarray], scalars: dict[str, Any]) -> dict[str, Any]:
    w, moves = own["w"], scalars["learning_rate"] != 0
    finite = np.isfinite(w)
    updates = finite & (own["total"] != 0) & moves
    lost = updates & _same_bits(w, own["new"])
    decays = finite & (own["decaying"] != 0) & moves
    shift = ar.float32.multiply(own["total"], scalars["learning_rate"])
    return {
        "count": w.size,
        "updates": _number(updates),
        "swallowed": _number(lost),
        "swallowed_directions": _number(lost & (own["direction"] != 0)),
        "decays": _number(decays),
        "swallowed_decays": _number(decays & _same_bits(w, own["decayed"])),
        "swallowed_in": {fmt.name: _number(updates & _lost_in(ar, fmt, w, shift)) for fmt in FORMATS},
    }


def _lost_in(ar: Calculator, fmt: Format, w: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Where w kept in a format would not be moved by - shift."""
    kept = ar.backend.round_to(w, fmt)
    moved = ar.backend.round_to(ar.float32.subtract(kept, shift), fmt)
    return np.isfinite(kept) & _same_bits(kept, moved)


def _same_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a).view(np.uint32) == np.ascontiguousarray(b).view(np.uint32)


def _number(flags: np.ndarray) -> int:
    return int(np.count_nonzero(flags))
