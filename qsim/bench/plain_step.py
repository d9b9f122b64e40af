"""The yardstick: a training step of the model in plain JAX, with ``jax.grad`` and AdamW.

Nothing of it is emulated and no bits are promised: XLA orders sums as it likes.  In float32; or, as half precision is
trained in, with a working copy, activations and products in bfloat16, LayerNorm, softmax and loss in float32 inside,
and parameters, moments and their update in float32.
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
    unrolled: the layers written out one by one, not as one scan.  dtype: of working copy and activations.
    A state of JAX arrays is gone after the call, and the next one has its memory.
    """

    def __init__(self, config: RunConfig, *, unrolled: bool = False, dtype: str = "float32") -> None:
        self._step = jax.jit(partial(_step, config, unrolled, dtype), donate_argnums=0)

    def __call__(self, state: dict[str, Tree], batch: Any, scalars: Tree, keys: Any) -> tuple[dict[str, Tree], Tree]:
        del keys
        state, loss = self._step(state, batch, scalars)
        return state, {"loss": loss, "finite": True}

    def lowered(self, *given: Any) -> Any:
        """The computation of state, batch and scalars, of which shapes are enough, as JAX lowers it."""
        return self._step.lower(*given)


def forget_compiled() -> None:
    """The next call of anything jitted traces and compiles again."""
    jax.clear_caches()


def _step(config: RunConfig, unrolled: bool, dtype: str, state: dict[str, Tree], batch: Any, scalars: Tree) -> Any:
    gradient = jax.value_and_grad(partial(loss, config.model, unrolled=unrolled, dtype=dtype))
    value, gradients = _of_parts(gradient, config.data.accumulation, state["parameters"], batch)
    return adamw(config.optimizer, state, gradients, scalars), value


def _of_parts(gradient: Any, parts: int, parameters: Tree, batch: Any) -> Any:
    """Loss and gradients, the mean over so many parts of the batch one after another."""
    if parts == 1:
        return gradient(parameters, *batch)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(parameters, *part)), None

    start = jnp.float32(0), jax.tree.map(jnp.zeros_like, parameters)
    split = tuple(x.reshape(parts, -1, x.shape[1]) for x in batch)
    return jax.tree.map(lambda x: x / parts, jax.lax.scan(add, start, split)[0])


def loss(
    config: ModelConfig,
    parameters: Tree,
    tokens: Any,
    targets: Any,
    *,
    unrolled: bool = False,
    dtype: str = "float32",
) -> Any:
    """Mean cross-entropy of tokens (B, T) against targets (B, T)."""
    parameters = {name: w.astype(dtype) for name, w in parameters.items()}
    blocks = {k.removeprefix("blocks."): w for k, w in parameters.items() if k.startswith("blocks.")}
    x = parameters["embedding.tokens"][tokens] + parameters["embedding.positions"][: tokens.shape[1]]
    x, _ = jax.lax.scan(partial(_block, config), x, blocks, unroll=config.layers if unrolled else 1)
    head = _layernorm(config, parameters, "layernorm_final", x) @ parameters["logits.weight"]  # (B, T, V)
    chances = jax.nn.log_softmax(head.astype(jnp.float32))
    return -jnp.mean(jnp.take_along_axis(chances, targets[..., None], -1))


def _block(config: ModelConfig, x: Any, p: Tree) -> tuple[Any, None]:
    x = x + _attention(config, p, _layernorm(config, p, "layernorm_1", x))
    up = _layernorm(config, p, "layernorm_2", x) @ p["mlp_up.weight"] + p["mlp_up.bias"]
    return x + jax.nn.gelu(up, approximate=False) @ p["mlp_down.weight"] + p["mlp_down.bias"], None


def _layernorm(config: ModelConfig, p: Tree, name: str, x: Any) -> Any:
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, -1, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + config.layernorm_epsilon)
    return (centred * scale * p[f"{name}.gain"] + p[f"{name}.bias"]).astype(x.dtype)


def _attention(config: ModelConfig, p: Tree, x: Any) -> Any:
    batch, length, hidden = x.shape
    qkv = (x @ p["qkv.weight"] + p["qkv.bias"]).reshape(batch, length, 3, config.heads, -1)
    q, k, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))  # (B, H, T, d)
    scores = (q * (1 / math.sqrt(hidden // config.heads))) @ k.swapaxes(2, 3)
    causal = jnp.tril(jnp.ones((length, length), bool))
    chances = jax.nn.softmax(jnp.where(causal, scores.astype(jnp.float32), -jnp.inf))
    mixed = chances.astype(x.dtype) @ v
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
