"""The yardstick: a training step of the model in plain float32 JAX, with ``jax.grad`` and AdamW.

Nothing of it is emulated and no bits are promised: XLA orders sums as it likes.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from qsim.config import ModelConfig, OptimizerConfig, RunConfig

Tree = dict[str, Any]


class PlainStep:
    """Called as ``qsim.step.Step``, jitted; of the results only what a loop needs.

    Domain: models with learned positions, untied, without dropout.
    unrolled: the layers written out one by one, not as one scan.
    """

    def __init__(self, config: RunConfig, *, unrolled: bool = False) -> None:
        self._step = jax.jit(partial(_step, config, unrolled))

    def __call__(self, state: dict[str, Tree], batch: Any, scalars: Tree, keys: Any) -> tuple[dict[str, Tree], Tree]:
        del keys
        state, loss = self._step(state, batch, scalars)
        return state, {"loss": loss, "finite": True}


def forget_compiled() -> None:
    """The next call of anything jitted traces and compiles again."""
    jax.clear_caches()


def _step(config: RunConfig, unrolled: bool, state: dict[str, Tree], batch: Any, scalars: Tree) -> Any:
    gradient = jax.value_and_grad(partial(loss, config.model, unrolled=unrolled))
    value, gradients = gradient(state["parameters"], *batch)
    return adamw(config.optimizer, state, gradients, scalars), value


def loss(config: ModelConfig, parameters: Tree, tokens: Any, targets: Any, *, unrolled: bool = False) -> Any:
    """Mean cross-entropy of tokens (B, T) against targets (B, T)."""
    blocks = {k.removeprefix("blocks."): w for k, w in parameters.items() if k.startswith("blocks.")}
    x = parameters["embedding.tokens"][tokens] + parameters["embedding.positions"][: tokens.shape[1]]
    x, _ = jax.lax.scan(partial(_block, config), x, blocks, unroll=config.layers if unrolled else 1)
    logits = _layernorm(config, parameters, "layernorm_final", x) @ parameters["logits.weight"]  # (B, T, V)
    chances = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(chances, targets[..., None], -1))


def _block(config: ModelConfig, x: Any, p: Tree) -> tuple[Any, None]:
    x = x + _attention(config, p, _layernorm(config, p, "layernorm_1", x))
    up = _layernorm(config, p, "layernorm_2", x) @ p["mlp_up.weight"] + p["mlp_up.bias"]
    return x + jax.nn.gelu(up, approximate=False) @ p["mlp_down.weight"] + p["mlp_down.bias"], None


def _layernorm(config: ModelConfig, p: Tree, name: str, x: Any) -> Any:
    centred = x - jnp.mean(x, -1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + config.layernorm_epsilon)
    return centred * scale * p[f"{name}.gain"] + p[f"{name}.bias"]


def _attention(config: ModelConfig, p: Tree, x: Any) -> Any:
    batch, length, hidden = x.shape
    qkv = (x @ p["qkv.weight"] + p["qkv.bias"]).reshape(batch, length, 3, config.heads, -1)
    q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))  # (B, H, T, d)
    scores = (q * (1 / math.sqrt(hidden // config.heads))) @ k.swapaxes(2, 3)
    causal = jnp.tril(jnp.ones((length, length), bool))
    mixed = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf)) @ v
    mixed = mixed.transpose(0, 2, 1, 3).reshape(batch, length, hidden)
    return mixed @ p["attention_out.weight"] + p["attention_out.bias"]


def adamw(config: OptimizerConfig, state: dict[str, Tree], gradients: Tree, scalars: Tree) -> dict[str, Tree]:
    """The update of ``qsim.optimizer.adamw``, clipping included, tensor by tensor."""
    factor = 1.0
    if config.clip is not None:
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in gradients.values()))
        factor = config.clip / jnp.maximum(norm, config.clip)
    new: dict[str, Tree] = {"parameters": {}, "first": {}, "second": {}}
    for name, gradient in gradients.items():
        w, first, second = (state[part][name] for part in new)
        g = gradient * factor
        first = config.beta1 * first + (1 - config.beta1) * g
        second = config.beta2 * second + (1 - config.beta2) * g * g
        deviation = jnp.sqrt(second * scalars["correction_2"]) + config.epsilon
        direction = first * scalars["correction_1"] / deviation
        if config.decay_gains_and_biases or not name.endswith((".gain", ".bias")):
            direction = direction + config.weight_decay * w
        updated = (w - scalars["learning_rate"] * direction, first, second)
        for part, value in zip(new, updated, strict=True):
            new[part][name] = value
    return new
