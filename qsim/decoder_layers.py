"""Layers that decoders other than the study's have, forward, over the arithmetic of their sites.

Shapes as in ``qsim.layers``; K heads of keys and values, each serving H / K heads of queries.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from qsim import layers
from qsim.decoder_config import Activation, DecoderConfig
from qsim.growing import appended
from qsim.masks import causal_mask
from qsim.positions import alibi_slopes, rotary_table
from qsim.site import Site, patterns
from qsim.sites import Calculator

Array = Any
_TANH_CUBE = 0.044715
_TANH_SCALE = (2 / np.pi) ** 0.5


def rmsnorm_forward(ar: Calculator, site: str, x: Array, gain: Array, epsilon: float) -> Array:
    """y = x / sqrt(mean(x^2) + eps) * gain over the last axis, one rounding at the end.  (N, h)

    mean = sum / h by a product with RN(1/h); 1 / sqrt as a correctly rounded root, then a quotient of one column.
    Source: Zhang and Sennrich, Root Mean Square Layer Normalization.
    """
    s = ar.at(site, "fprop")

    def composed(x: Array, gain: Array) -> tuple[Array]:
        mean = s.multiply(s.sum(s.multiply(x, x)), s.scalar(1 / x.shape[-1]))[:, None]
        root = s.square_root(s.add(mean, s.scalar(epsilon)))
        inverse = s.divide(ar.xp.ones_like(root), root)
        return (s.multiply(s.multiply(x, inverse), gain),)

    return s.fused("rmsnorm", composed, x, gain, words=patterns(1 / x.shape[-1], epsilon))[0]


def rotary_forward(ar: Calculator, x: Array, width: int, theta: float, first: int) -> Array:
    """Each pair (x_i, x_(i + width / 2)) turned by the angle of its frequency at its row's position.  (B H, T, d)

        y_i = x_i cos - x_(i + w/2) sin,    y_(i + w/2) = x_(i + w/2) cos + x_i sin

    Inner arithmetic of ``scores``, one rounding to its output; beyond ``width`` values stay.  first: position of the
    first row.  Tables: ``qsim.positions.rotary_table``.
    """
    s, length = ar.at("scores", "fprop"), x.shape[1]
    tables = (ar.xp.asarray(t[first:]) for t in rotary_table(first + length, width, theta))

    def composed(x: Array, cosine: Array, sine: Array) -> tuple[Array]:
        a, b = x[:, :, 0], x[:, :, 1]

        def by(x: Array, table: Array) -> Array:
            return s.multiply(x, ar.xp.broadcast_to(table, x.shape))

        turned = s.subtract(by(a, cosine), by(b, sine)), s.add(by(b, cosine), by(a, sine))
        return (ar.xp.stack(turned, axis=2),)

    halves = x[..., :width].reshape(-1, length, 2, width // 2)
    turned = s.fused("rotary", composed, halves, *tables)[0].reshape(-1, length, width)
    return turned if width == x.shape[2] else ar.xp.concatenate([turned, x[..., width:]], axis=-1)


def activation_forward(ar: Calculator, activation: Activation, x: Array) -> Array:
    """f(x) at the site ``gelu``, rounded once: by table if its inputs have 16 bits, else composed.  ReLU compares."""
    s = ar.at("gelu", "fprop")
    if activation == "gelu":
        return s.gelu(x)
    if activation != "relu":
        return s.activation(activation, x, *_composed(ar, s, activation))
    x = s.multiply(x, s.scalar(1))  # a compiler that compares subnormals as zeros finds none
    return s.output(ar.xp.where(x < 0, ar.xp.zeros_like(x), x))


def gated_forward(ar: Calculator, activation: Activation, gate: Array, up: Array) -> Array:
    """f(gate), rounded as above, times up, rounded at the same site."""
    s = ar.at("gelu", "fprop")
    if activation in ("silu", "gelu_tanh"):
        return s.gated(activation, gate, up, *_composed(ar, s, activation))
    return s.output(s.multiply(activation_forward(ar, activation, gate), up))


def _composed(ar: Calculator, s: Site, activation: Activation) -> tuple[Callable[[Array], Array], tuple[int, ...]]:
    """The function in steps, and the constants of its kernel."""
    if activation == "silu":
        return partial(_silu, ar, s), ()
    return partial(_gelu_tanh, s), patterns(_TANH_CUBE, _TANH_SCALE)


def _silu(ar: Calculator, s: Site, x: Array) -> Array:
    """x / (1 + e^-x)"""
    one = s.scalar(1)
    return s.divide(x, s.add(one, s.exp(s.subtract(ar.xp.zeros_like(x), x))))


def _gelu_tanh(s: Site, x: Array) -> Array:
    """x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))

    Source: Hendrycks and Gimpel, Gaussian Error Linear Units, section 2.
    """
    cube = s.multiply(s.multiply(x, x), x)
    inside = s.multiply(s.add(x, s.multiply(cube, s.scalar(_TANH_CUBE))), s.scalar(_TANH_SCALE))
    return s.multiply(s.multiply(x, s.scalar(0.5)), s.add(s.tanh(inside), s.scalar(1)))


def mlp_forward(ar: Calculator, config: DecoderConfig, p: dict[str, Array], x: Array) -> Array:
    """f(x U + b) D + b, or (f(x G) * (x U)) D, whose product is rounded at the site ``gelu`` again.  (N, h)"""
    up = layers.linear_forward(ar, "mlp_up", x, p["mlp_up.weight"], p.get("mlp_up.bias"))
    if config.gated:
        gate = layers.linear_forward(ar, "mlp_up", x, p["mlp_gate.weight"], None)
        active = gated_forward(ar, config.activation, gate, up)
    else:
        active = activation_forward(ar, config.activation, up)
    return layers.linear_forward(ar, "mlp_down", active, p["mlp_down.weight"], p.get("mlp_down.bias"))


def grouped_attention(
    ar: Calculator, config: DecoderConfig, qkv: Array, batch: int, earlier: dict[str, Array] | None
) -> tuple[Array, dict[str, Array]]:
    """Causal attention of rows [Q | K | V], behind the keys and values of earlier positions.  (N, q + 2 kv) -> (N, q)

    Keys are kept turned, where positions are rotary.  Also given back: ``keys`` and ``values`` (B K, S, d) of all S
    positions, as the calculator keeps them; what is attended to is what those stand for, with a cache and without.
    Errors: ValueError for a cache of a calculator that keeps them otherwise.
    """
    queries = config.sizes["q"]
    q = layers.split_heads(ar, qkv[:, :queries], batch, config.heads, 1)[0]
    k, v = layers.split_heads(ar, qkv[:, queries:], batch, config.kv_heads, 2)
    first = 0 if earlier is None else earlier["keys"].shape[1]
    if config.positions == "rotary":
        q, k = (rotary_forward(ar, x, config.rotary_width, config.rotary_theta, first) for x in (q, k))
    kept = ar.as_cached("keys", k) | ar.as_cached("values", v)
    if earlier is not None:
        if earlier.keys() != kept.keys():
            raise ValueError(
                f"the cache holds {', '.join(earlier)} where {', '.join(kept)} are kept; begin with an empty one"
            )
        kept = {name: appended(ar.xp, earlier[name], x) for name, x in kept.items()}
    k, v = ar.attended("keys", kept), ar.attended("values", kept)
    mask = causal_mask(ar, q.shape[1], first)
    slopes = ar.xp.asarray(alibi_slopes(config.heads)) if config.positions == "alibi" else None
    mixed, _ = layers.attend(ar, q, k, v, mask, batch, slopes)
    return layers.merge_heads(ar, [mixed], batch), kept
