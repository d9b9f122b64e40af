"""Scales of tensors from what they held at earlier steps, as TransformerEngine's delayed scaling has them.

Of each linear layer of the blocks the training state keeps, by ``site.tensor``, the largest magnitudes of the last
steps: of its input x, its weight w and the gradient dy of its output, whichever of its products read them.  They are
part of the state like the moments: in checkpoints, in hashes, whole on every device of a mesh.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from precision.format import Format
from precision.scaled_products import scaled_for, unscaled
from qsim.arithmetic import Arithmetic
from qsim.site_policy import Pass

if TYPE_CHECKING:
    from qsim.sites import Calculator

Array = Any
PART = "absmax"  # of the state
_PREFIX = "blocks."
OPERANDS: Mapping[Pass, tuple[str, str]] = {"fprop": ("x", "w"), "dgrad": ("dy", "w"), "wgrad": ("x", "dy")}


def first_histories(policy: Arithmetic, layers: int) -> dict[str, np.ndarray]:
    """Zeros (L, history) by name, of every tensor that the policy scales so in some layer; the latest step stands
    last."""
    used = {(site, p) for _, site, p, row in policy.rows() if row.scaling == "delayed"}
    names = {f"{_PREFIX}{site}.{tensor}" for site, p in used for tensor in OPERANDS[p]}
    return {name: np.zeros((layers, policy.delayed_scaling.history), np.float32) for name in sorted(names)}


class Histories:
    """What the products of one step read of the histories, and what they see of the tensors; by ``site.tensor``."""

    def __init__(self, kept: Mapping[str, Array] | None = None) -> None:
        self.kept = dict(kept or {})  # (L, history); inside a layer (history,)
        self.seen: dict[str, Array] = {}  # patterns of largest magnitudes, uint32 (L,); inside a layer ()

    @classmethod
    def of_state(cls, part: Mapping[str, Array]) -> Histories:
        return cls({name.removeprefix(_PREFIX): kept for name, kept in part.items()})

    def see(self, ar: Calculator, name: str, pattern: Array) -> None:
        """The largest of all that was seen of a tensor: by parts of a batch, by passes, again when recomputed."""
        self.seen[name] = ar.xp.maximum(self.seen[name], pattern) if name in self.seen else pattern

    def in_layers(self, first: int, last: int) -> dict[str, Array]:
        return {name: kept[first:last] for name, kept in self.kept.items()}

    def see_layers(self, ar: Calculator, stacked: Mapping[str, Array], first: int) -> None:
        """What a scan over layers from ``first`` saw."""
        for name, patterns in stacked.items():
            layers, after = self.kept[name].shape[0], first + patterns.shape[0]
            ends = [ar.xp.zeros(n, np.uint32) for n in (first, layers - after)]
            self.see(ar, name, ar.xp.concatenate([ends[0], patterns, ends[1]]))

    def see_parts(self, ar: Calculator, stacked: Mapping[str, Array]) -> None:
        """What the parts of a batch saw: (A, L)."""
        for name, patterns in stacked.items():
            self.see(ar, name, ar.xp.max(patterns, axis=0))

    def after(self, ar: Calculator) -> dict[str, Array]:
        """The state's part with this step's largest magnitudes, those of all devices, in place of the oldest."""
        new = {}
        for name, kept in sorted(self.kept.items()):
            latest = ar.shards.largest(ar.backend.from_bits(self.seen[name]))
            new[f"{_PREFIX}{name}"] = ar.xp.concatenate([kept[:, 1:], latest[:, None]], axis=1)
        return new


def delayed_product(
    ar: Calculator, place: tuple[str, Pass], a: Array, b: Array, product: Any, formats: tuple[Format, Format]
) -> Array:
    """As ``precision.scaled_products.scaled_product``, each scale from the history of its tensor.

        s = 2^(floor(log2(max / a)) - margin)   a the largest of the history;  s = 1 where that is 0

    Values that leave the format become its largest, what is not finite NaN.
    """
    site, direction = place
    (qa, code_a), (qb, code_b) = (
        _scaled(ar, f"{site}.{tensor}", x, fmt)
        for tensor, x, fmt in zip(OPERANDS[direction], (a, b), formats, strict=True)
    )
    return unscaled(ar.backend, product(qa, qb), code_a, code_b)


def _scaled(ar: Calculator, name: str, x: Array, fmt: Format) -> tuple[Array, Array]:
    histories, backend, xp = ar.histories, ar.backend, ar.xp
    if name not in histories.kept:
        raise ValueError(
            f"{name} of policy {ar.policy.name} is scaled by its history, which is part of a training state; compute "
            "inside a run, or under a policy of current scales such as fp8"
        )
    own = backend.to_bits(backend.absmax(x.reshape(1, -1), 1)).reshape(())
    histories.see(ar, name, own)
    largest = xp.max(backend.to_bits(histories.kept[name]))  # no history holds what is not finite
    raised = backend.times_power(
        backend.from_bits(largest.reshape(1, 1)), xp.full((1, 1), 256 + ar.policy.delayed_scaling.margin, np.uint32)
    )
    absmax = xp.where(largest == 0, np.float32(fmt.maximum), raised)
    return scaled_for(backend, x, fmt, absmax)
