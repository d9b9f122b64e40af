"""The explicit backward pass against ``jax.grad`` of an independent float64 model."""

from __future__ import annotations

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from precision.random_bits import as_key, random_bits
from qsim import model
from qsim.config import ModelConfig
from qsim.policy import POLICIES
from qsim.sites import Calculator

CONFIG = ModelConfig(layers=3, hidden=12, heads=3, length=10, vocabulary=17)
BATCH, LENGTH = 4, 8  # shorter than the model's length: unused positions get no gradient


def reference_loss(config, parameters, tokens, targets, kept):
    """Mean cross-entropy of the same model, written the plain way in jax.numpy."""
    x = parameters["embedding.tokens"][tokens]
    if config.positions == "learned":
        x = x + parameters["embedding.positions"][: tokens.shape[1]]
    if config.positions == "sinusoidal":
        x = x + sinusoids(tokens.shape[1], config.hidden, config.position_scale)
    for i in range(config.layers):
        p = {k.removeprefix("blocks."): v[i] for k, v in parameters.items() if k.startswith("blocks.")}
        x = x + dropped(config, attention(config, p, norm(config, x, p, "layernorm_1")), kept, "attention_out", i)
        m = norm(config, x, p, "layernorm_2") @ p["mlp_up.weight"] + p["mlp_up.bias"]
        m = jax.nn.gelu(m, approximate=False) @ p["mlp_down.weight"] + p["mlp_down.bias"]
        x = x + dropped(config, m, kept, "mlp_down", i)
    final = {k: v for k, v in parameters.items() if k.startswith("layernorm_final")}
    head = parameters["embedding.tokens"].T if config.tied else parameters["logits.weight"]
    logits = norm(config, x, final, "layernorm_final") @ head
    chances = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(chances, targets[..., None], -1))


def sinusoids(length, width, scale):
    """Interleaved sine and cosine of t / 10000^(2 i / h), times the scale, float32."""
    table = np.zeros((length, width))
    for t, i in np.ndindex(length, width // 2):
        angle = t / 10000 ** (2 * i / width)
        table[t, 2 * i : 2 * i + 2] = scale * np.sin(angle), scale * np.cos(angle)
    return table.astype(np.float32).astype(np.float64)


def distances(heads, length):
    """ALiBi: 2^-4, 2^-8 of two heads, and 2^-2 of four for the third."""
    assert heads == 3
    i = np.arange(length)
    return np.array([2.0**-4, 2.0**-8, 2.0**-2])[:, None, None] * (i[None, :] - i[:, None])


def norm(config, x, p, name):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + config.layernorm_epsilon) * p[f"{name}.gain"] + p[f"{name}.bias"]


def attention(config, p, x):
    batch, length, hidden = x.shape
    qkv = (x @ p["qkv.weight"] + p["qkv.bias"]).reshape(batch, length, 3, config.heads, -1)
    q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(hidden // config.heads)
    if config.positions == "alibi":
        scores = scores + distances(config.heads, length)
    scores = jnp.where(np.tril(np.ones((length, length), bool)), scores, -jnp.inf)
    mixed = (jax.nn.softmax(scores) @ v).transpose(0, 2, 1, 3).reshape(batch, length, hidden)
    return mixed @ p["attention_out.weight"] + p["attention_out.bias"]


def dropped(config, x, kept, site, layer):
    if kept is None:
        return x
    return jnp.where(kept[site][layer].reshape(x.shape), x / (1 - config.dropout), 0)


def drawn(config, seed):
    rng = np.random.default_rng(seed)
    parameters = {
        name: rng.normal(0, 0.4, shape) + name.endswith(".gain")
        for name, shape in model.parameter_shapes(config).items()
    }
    tokens, targets = rng.integers(0, config.vocabulary, (2, BATCH, LENGTH))
    return parameters, tokens, targets


@pytest.mark.thinned(0.2)
@pytest.mark.parametrize(
    ("changes", "chunks"),
    [
        ({}, 1),
        ({}, 4),
        ({"dropout": 0.3}, 1),
        ({"dropout": 0.3}, 4),
        ({"dropout": 0.3, "recompute": True}, 2),
        ({"positions": "sinusoidal"}, 4),
        ({"positions": "sinusoidal", "position_scale": 0.03125}, 1),
        ({"positions": "sinusoidal", "tied": True, "recompute": True}, 1),
        ({"positions": "alibi", "dropout": 0.3}, 4),
        ({"positions": "alibi", "tied": True, "recompute": True}, 2),
        ({"tied": True}, 4),
    ],
    ids=str,
)
def test_backward_agrees_with_jax_grad_in_float64(changes, chunks):
    config = dataclasses.replace(CONFIG, **changes)
    parameters, tokens, targets = drawn(config, 1)
    keys = model.dropout_keys(config, 5, 9)
    scale = np.float64(4.0)
    loss, gradients = model.loss_and_gradients(
        Calculator(POLICIES["fp64"], "numpy"),
        config,
        parameters,
        tokens,
        targets,
        loss_scale=scale,
        chunks=chunks,
        keys=keys,
    )
    with jax.enable_x64(True):
        kept = expected_kept(config, keys)
        value, expected = jax.jit(jax.value_and_grad(lambda w: reference_loss(config, w, tokens, targets, kept)))(
            {k: jnp.asarray(v) for k, v in parameters.items()}
        )
        assert value.dtype == np.float64
    np.testing.assert_allclose(loss, value, rtol=1e-12)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        chex.assert_equal_shape([gradient, expected[name]])
        true = scale * np.asarray(expected[name])
        assert np.max(np.abs(gradient - true)) <= 1e-9 * np.max(np.abs(true)), name


def expected_kept(config, keys):
    """Dropout decisions from the definition: 32 bits of element i of a layer's key, at least round(p 2^32)."""
    if keys is None:
        return None
    size = BATCH * LENGTH * config.hidden
    threshold = round(config.dropout * 2**32)
    return {
        site: [random_bits((int(a), int(b)), np.arange(size, dtype=np.uint64)) >= threshold for a, b in rows]
        for site, rows in keys.items()
    }


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, {"embedding.positions", "logits.weight"}),
        ({"positions": "sinusoidal"}, {"logits.weight"}),
        ({"positions": "alibi", "tied": True}, set()),
        ({"tied": True}, {"embedding.positions"}),
    ],
    ids=["learned", "sinusoidal", "alibi, tied", "tied"],
)
def test_parameters_that_positions_and_tied_tables_spare(changes, names):
    config = dataclasses.replace(CONFIG, **changes)
    shapes = model.parameter_shapes(config)
    assert {"embedding.positions", "logits.weight"} & shapes.keys() == names
    assert sum(math.prod(shape) for shape in shapes.values()) == config.parameters
    full, own = (model.initial_parameters(c, 3) for c in (CONFIG, config))
    assert own.keys() == full.keys() - {"embedding.positions", "logits.weight"} | names
    assert all(np.array_equal(own[name], full[name]) for name in own)  # a start that depends on names alone


def test_dropout_keeps_the_stated_share():
    config = dataclasses.replace(CONFIG, dropout=0.25)
    kept = expected_kept(config, model.dropout_keys(config, 0, 1))
    share = np.mean([np.mean(row) for rows in kept.values() for row in rows])
    deviation = np.sqrt(0.25 * 0.75 / (6 * BATCH * LENGTH * config.hidden))
    assert abs(share - 0.75) < 5 * deviation


def test_dropout_keys_differ_by_site_layer_and_step_and_are_absent_without_dropout():
    config = dataclasses.replace(CONFIG, dropout=0.1)
    rows = [tuple(row) for step in (1, 2) for keys in model.dropout_keys(config, 3, step).values() for row in keys]
    assert len(set(rows)) == len(rows) == 2 * 2 * config.layers
    assert model.dropout_keys(CONFIG, 3, 1) is None


def test_initial_parameters_have_the_stated_moments():
    config = ModelConfig(layers=2, hidden=64, heads=2, length=64, vocabulary=256)
    parameters = model.initial_parameters(config, 0)
    chex.assert_trees_all_equal_shapes(
        parameters, {name: np.zeros(shape, np.float32) for name, shape in model.parameter_shapes(config).items()}
    )
    for name, w in parameters.items():
        assert w.dtype == np.float32
        if name.endswith(".gain"):
            assert np.all(w == 1)
        elif name.endswith(".bias"):
            assert np.all(w == 0)
        else:
            writes = "attention_out" in name or "mlp_down" in name
            expected = 0.02 / 2 if writes else 0.02  # 0.02 / sqrt(2 L), L = 2
            assert abs(w.std() / expected - 1) < 5 / np.sqrt(2 * w.size), name
            assert abs(w.mean()) < 5 * expected / np.sqrt(w.size), name


def test_initial_parameters_depend_on_the_seed_and_on_nothing_else():
    first, again, other = (model.initial_parameters(CONFIG, seed) for seed in (7, 7, 8))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["blocks.qkv.weight"], other["blocks.qkv.weight"])


def test_random_words_of_initial_parameters_are_keyed_by_name():
    assert as_key(3) == (0, 3)
    parameters = model.initial_parameters(CONFIG, 0)
    a, b = parameters["embedding.tokens"], parameters["logits.weight"]
    assert not np.array_equal(a.ravel(), b.T.ravel())
    assert not np.array_equal(a.ravel(), b.ravel())
