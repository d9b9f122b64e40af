"""Each layer, forward or backward, on any calculator, with inputs of every kind of value, and what it should give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from bits_assertions import assert_same_bits
from strategies import drawn, generator, sprinkled

from qsim import config as configuration
from qsim import decoder_layers, layers
from qsim.optimizer import adamw
from qsim.sites import Calculator

Array = Any
Inputs = dict[str, Array]
CHUNKS, EPSILON, VOCABULARY = 6, 1e-5, 11
OPTIMIZER = configuration.preset("small").optimizer


def values(rng: np.random.Generator, *shape: int) -> Array:
    """Numbers near 1 with any patterns among them: subnormals, infinities, NaN and both zeros."""
    size = int(np.prod(shape))
    plain = rng.normal(0, 2.0 ** rng.integers(-8, 8), size).astype(np.float32).view(np.uint32)
    kind = rng.integers(3)
    words = plain if kind == 0 else sprinkled(rng, plain, 0.02) if kind == 1 else drawn(rng, size)
    return words.astype(np.uint32).view(np.float32).reshape(shape)


def masked(rng: np.random.Generator, n: int) -> Array:
    """Causal, or any; the first row of any mask allows nothing."""
    if rng.integers(2):
        return np.tril(np.ones((n, n), np.bool_))
    mask = rng.integers(2, size=(n, n)).astype(np.bool_)
    mask[0] = False
    return mask


def inputs(seed: int, rows: int, n: int) -> Inputs:
    rng = generator(seed)
    whole = {name: values(rng, rows, n) for name in ("x", "y", "z")}
    whole |= {name: values(rng, n) for name in ("gain", "bias")}
    whole |= {name: values(rng, 3, n, n) for name in ("scores", "dweights")}
    whole |= {"chunked": values(rng, CHUNKS, 3, n), "scalars": values(rng, 3), "factor": values(rng)}
    whole |= {"mask": masked(rng, n), "targets": rng.integers(0, n, rows).astype(np.int32)}
    whole["second"] = np.abs(whole["z"])
    return whole | {"tokens": rng.integers(0, VOCABULARY, (CHUNKS, rows // CHUNKS)).astype(np.int32)}


# Each computes one layer, forward or backward


def layernorm(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    y, cache = layers.layernorm_forward(ar, "layernorm_1", x["x"], x["gain"], x["bias"], EPSILON)
    return y, cache["normal"], cache["inverse"]


def layernorm_gradient(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    cache = {"normal": x["x"], "inverse": x["z"][:, :1]}
    return layers.layernorm_backward(ar, "layernorm_1", cache, x["gain"], x["y"], CHUNKS)


def softmax(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    scores = ar.at("scores", "fprop").deferred(x["scores"], lambda s: ar.xp.where(x["mask"], s, np.float32(0)))
    return layers.softmax_forward(ar, scores, x["mask"]), layers.softmax_forward(ar, x["scores"], x["mask"])


def softmax_gradient(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    gradient = ar.at("values", "dgrad").deferred(x["dweights"])
    return (layers.softmax_backward(ar, x["scores"], gradient, x["mask"]),)


def cross_entropy(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    losses, cache = layers.cross_entropy_rows(ar, x["x"], x["targets"])
    return losses, cache["powers"], cache["total"]


def cross_entropy_gradient(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    cache = {"powers": x["x"], "total": x["y"][:, :1]}
    return (layers.cross_entropy_backward(ar, cache, x["targets"], x["factor"], 100),)


def biased(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    fprop = ar.at("mlp_up", "fprop")
    return (layers.rounded_biased(fprop, x["x"], x["bias"]),)


def residual(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    return layers.residual_forward(ar, x["x"], x["y"]), layers.residual_backward(ar, x["y"], x["z"])


def gelu(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    return layers.gelu_forward(ar, x["x"]), layers.gelu_backward(ar, x["x"], x["y"])


def chunks(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    folded = layers.fold_chunks(ar, ar.at("qkv", "wgrad").deferred(x["chunked"]))
    return folded, layers.fold_chunks(ar, x["chunked"]), layers.bias_gradient(ar, "qkv", x["x"], CHUNKS)


def embedding(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    return (layers.embedding_backward(ar, x["tokens"], x["x"], VOCABULARY, CHUNKS),)


def update(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    names = "a.weight", "b.bias"
    state = {"parameters": dict.fromkeys(names, x["x"]), "first": dict.fromkeys(names, x["y"])}
    state["second"] = dict.fromkeys(names, x["second"])
    scalars = dict(zip(("learning_rate", "correction_1", "correction_2"), x["scalars"], strict=True))
    new = adamw(ar, OPTIMIZER, state, dict.fromkeys(names, x["z"]), scalars, x["factor"])
    return tuple(new[part][name] for part in new for name in names)


def rmsnorm(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    return (decoder_layers.rmsnorm_forward(ar, "layernorm_1", x["x"], x["gain"], EPSILON),)


def rotary(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    """All of 2 n values of a head, and the first 2 of them."""
    heads = x["x"].reshape(2, -1, 2 * x["gain"].size) if len(x["x"]) % 4 == 0 else x["y"].reshape(1, -1, 2)
    widths = heads.shape[2], 2
    return tuple(decoder_layers.rotary_forward(ar, heads, width, 10000.0, 3) for width in widths)


def activations(ar: Calculator, x: Inputs) -> tuple[Array, ...]:
    found = [decoder_layers.activation_forward(ar, name, x["x"]) for name in ("silu", "gelu_tanh", "relu")]
    return *found, *(decoder_layers.gated_forward(ar, name, x["x"], x["y"]) for name in ("silu", "gelu_tanh", "relu"))


LAYERS = (
    layernorm,
    layernorm_gradient,
    softmax,
    softmax_gradient,
    cross_entropy,
    cross_entropy_gradient,
    biased,
    residual,
    gelu,
    chunks,
    embedding,
    update,
    rmsnorm,
    rotary,
    activations,
)
# how many of the first results are rounded, which makes every NaN canonical; of the others any NaN is as good
ROUNDED = {
    layernorm: 1, layernorm_gradient: 1, softmax: 2, softmax_gradient: 1, cross_entropy_gradient: 1, biased: 1,
    residual: 2, gelu: 2, rmsnorm: 1, rotary: 1, activations: 6,
}  # fmt: skip


def assert_same_results(layer: Callable, found: tuple[Array, ...], wanted: tuple[Array, ...]) -> None:
    for i, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert_same_bits(np.asarray(one), other, any_nan=i >= ROUNDED.get(layer, 0))
