"""AdamW, clipping and loss scaling, in float32 that flushes subnormals.

What depends on the step alone (learning rate, bias corrections, loss scale) is computed on the host in float64 and
passed in as float32, the same for every executor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from qsim.config import OptimizerConfig
from qsim.policy import LossScaling
from qsim.schedules import learning_rate
from qsim.site import Composed, patterns
from qsim.sites import Calculator

Array = Any
Tree = dict[str, Array]
_SCALARS = ("learning_rate", "correction_1", "correction_2")  # of a step, that its update reads
_LARGE = 1 << 14  # elements of a tensor that are not worth copying


def step_scalars(config: OptimizerConfig, step: int, steps: int, updates: int, scale: float) -> dict[str, Any]:
    """The host's float32 numbers of one step; ``updates``: how many updates were made before it."""
    count = updates + 1
    values = {
        "learning_rate": learning_rate(config, step, steps),
        "correction_1": 1 / (1 - config.beta1**count),
        "correction_2": 1 / (1 - config.beta2**count),
        "loss_scale": scale,
        "unscale": 1 / scale,
    }
    return {name: np.float32(value) for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class ScaleState:
    """Loss scale and the good steps since it last changed."""

    scale: float
    good_steps: int = 0

    @classmethod
    def start(cls, scaling: LossScaling) -> ScaleState:
        return cls(scale=1.0 if scaling.mode == "none" else scaling.initial)

    def after(self, scaling: LossScaling, finite: bool) -> ScaleState:
        """The state after a step whose gradients were all finite, or not."""
        if scaling.mode != "dynamic":
            return self
        if not finite:
            return ScaleState(scale=max(self.scale * scaling.backoff, scaling.minimum))
        if self.good_steps + 1 < scaling.interval:
            return ScaleState(scale=self.scale, good_steps=self.good_steps + 1)
        return ScaleState(scale=self.scale * scaling.growth)


def global_norm(ar: Calculator, gradients: Tree) -> Array:
    """sqrt(sum of squares): trees over the last axis, over rows, then over tensors in name order."""
    f = ar.float32
    totals = []
    for name, g in sorted(gradients.items()):
        squares = ar.shards.row_sums(f, name, f.multiply(g, g))
        totals.append(f.sum(squares.reshape(-1)))
    return f.square_root(f.sum(ar.xp.stack(totals)))


def clip_factor(ar: Calculator, norm: Array, limit: float | None) -> Array:
    """limit / norm where the norm exceeds the limit, else 1."""
    one = ar.float32.scalar(1)
    if limit is None:
        return one
    bound = ar.float32.scalar(limit)
    divisor = ar.xp.where(norm > bound, norm, bound)
    return ar.float32.divide(bound, divisor)


def adamw(
    ar: Calculator, config: OptimizerConfig, state: dict[str, Tree], gradients: Tree, scalars: Tree, factor: Array
) -> dict[str, Tree]:
    """One update of parameters and moments (``parameters``, ``first``, ``second`` by name).

    m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  w = w - lr (m c1 / (sqrt(v c2) + eps) + decay w),
    with g the gradient times ``factor``, c1 and c2 the bias corrections; g, m, v and w rounded as the policy's stages
    say.  Elementwise, so that several parameters are updated as one vector.
    """
    new: dict[str, Tree] = {"parameters": {}, "first": {}, "second": {}}
    numbers = (*(scalars[name] for name in _SCALARS), factor)
    by_kernel = all(ar.stage(name).is_float32 for name in ("unscale_clip", "moments"))
    for decay, names in _groups(ar, config, state["parameters"], by_kernel):
        vectors = [_join(ar, tree, names) for tree in (*(state[part] for part in new), gradients)]
        updated = _update(ar, config, decay, by_kernel, vectors, numbers)
        for part, vector in zip(new, updated, strict=True):
            new[part] |= _separate(vector, state[part], names)
    new["parameters"] = ar.updated(new["parameters"])
    return new


def _groups(
    ar: Calculator, config: OptimizerConfig, parameters: Tree, by_kernel: bool
) -> Iterator[tuple[float, list[str]]]:
    """(weight decay, names) of those updated as one vector; kernels, which copy nothing, take large ones alone."""
    for decay, names in _by_decay(config, parameters).items():
        alone = by_kernel and ar.backend.fused_layer("adamw") is not None
        least = 0 if ar.hardware else _LARGE
        large = [name for name in names if alone and math.prod(parameters[name].shape) >= least]
        yield from ((decay, [name]) for name in large)
        if len(large) < len(names):
            yield decay, [name for name in names if name not in large]


def _by_decay(config: OptimizerConfig, parameters: Tree) -> dict[float, list[str]]:
    """Names by weight decay: that of the configuration, or 0 for gains and biases unless they decay too."""
    groups: dict[float, list[str]] = {}
    for name in sorted(parameters):
        groups.setdefault(decay_of(config, name), []).append(name)
    return groups


def decay_of(config: OptimizerConfig, name: str) -> float:
    """Weight decay of a parameter."""
    decays = config.decay_gains_and_biases or not name.endswith((".gain", ".bias"))
    return config.weight_decay if decays else 0.0


def _join(ar: Calculator, tree: Tree, names: list[str]) -> Array:
    """Tensors laid end to end, one vector."""
    if len(names) == 1:
        return ar.flat(tree[names[0]])
    return ar.xp.concatenate([tree[name].reshape(-1) for name in names])


def _separate(vector: Array, like: Tree, names: list[str]) -> Tree:
    """The inverse of ``_join``."""
    if len(names) == 1:
        return {names[0]: vector.reshape(like[names[0]].shape)}
    tree, start = {}, 0
    for name in names:
        size = math.prod(like[name].shape)
        tree[name] = vector[start : start + size].reshape(like[name].shape)
        start += size
    return tree


def _update(
    ar: Calculator,
    config: OptimizerConfig,
    decay: float,
    by_kernel: bool,
    vectors: Sequence[Array],
    numbers: Sequence[Array],
) -> tuple[Array, ...]:
    """Parameters and moments after the step, of vectors w, m, v and gradient; by one kernel where there is one."""
    composed: Composed = partial(_composed_update, ar, config, decay)
    if not by_kernel:
        return composed(*vectors, numbers)
    words = patterns(config.beta1, 1 - config.beta1, config.beta2, 1 - config.beta2, config.epsilon, decay)
    stacked = ar.xp.stack([ar.xp.asarray(x, np.float32) for x in numbers])
    return ar.float32.unrounded("adamw", composed, *vectors, stacked, words=words)


def _composed_update(
    ar: Calculator,
    config: OptimizerConfig,
    decay: float,
    w: Array,
    first: Array,
    second: Array,
    gradient: Array,
    numbers: Sequence[Array],
) -> tuple[Array, ...]:
    f, clip, moments = ar.float32, ar.stage("unscale_clip"), ar.stage("moments")
    *of_step, factor = numbers
    scalars = dict(zip(_SCALARS, of_step, strict=True))
    g = clip.output(clip.multiply(gradient, factor))
    decayed = f.multiply(first, f.scalar(config.beta1))
    first = moments.output(f.add(decayed, f.multiply(g, f.scalar(1 - config.beta1))))
    squared = f.multiply(f.multiply(g, g), f.scalar(1 - config.beta2))
    second = moments.output(f.add(f.multiply(second, f.scalar(config.beta2)), squared))
    direction = with_decay(ar, gradient_direction(ar, config, first, second, scalars), w, decay)
    return f.subtract(w, f.multiply(direction, scalars["learning_rate"])), first, second


def gradient_direction(ar: Calculator, config: OptimizerConfig, first: Array, second: Array, scalars: Tree) -> Array:
    """m c1 / (sqrt(v c2) + eps), of moments as they are kept after the step."""
    f = ar.float32
    deviation = f.square_root(f.multiply(second, scalars["correction_2"]))
    return f.divide(f.multiply(first, scalars["correction_1"]), f.add(deviation, f.scalar(config.epsilon)))


def with_decay(ar: Calculator, direction: Array, w: Array, decay: float) -> Array:
    """direction + decay w."""
    f = ar.float32
    return f.add(direction, f.multiply(w, f.scalar(decay))) if decay else direction
