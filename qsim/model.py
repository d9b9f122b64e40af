"""The GPT of the study, a pre-LayerNorm decoder: forward and backward.

Parameters are a dict of arrays; those of the blocks are stacked along a leading axis of layers, so that the layers
are one scan:

    embedding.tokens (V, h)  embedding.positions (T, h), where positions are learned
    blocks.layernorm_1.gain, .bias (L, h)     blocks.qkv.weight (L, h, 3 h), .bias          blocks.attention_out
    blocks.layernorm_2.gain, .bias            blocks.mlp_up.weight (L, h, 4 h), .bias       blocks.mlp_down
    layernorm_final.gain, .bias (h)           logits.weight (h, V), unless tied to embedding.tokens
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtri

from precision.passes import Passes
from precision.random_bits import as_key, fold_in, fold_name, random_bits
from qsim import layers
from qsim.config import ModelConfig
from qsim.draws import output_keys, write_back_keys
from qsim.policy import Arithmetic
from qsim.positions import alibi_slopes, sinusoidal_table
from qsim.sites import Calculator

Array = Any
Parameters = dict[str, Array]
Part = tuple[tuple[int, int], ...]  # of an array: from where to where along each axis
_DRAWN_AT_ONCE = 1 << 16
LINEAR = ("qkv", "attention_out", "mlp_up", "mlp_down")


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by name, blocks stacked."""
    h, depth = config.hidden, config.layers
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.tokens": (config.vocabulary, h),
        "layernorm_final.gain": (h,),
        "layernorm_final.bias": (h,),
    }
    if config.positions == "learned":
        shapes["embedding.positions"] = (config.length, h)
    if not config.tied:
        shapes["logits.weight"] = (h, config.vocabulary)
    widths = {"qkv": (h, 3 * h), "attention_out": (h, h), "mlp_up": (h, 4 * h), "mlp_down": (4 * h, h)}
    for name in ("layernorm_1", "layernorm_2"):
        shapes |= {f"blocks.{name}.gain": (depth, h), f"blocks.{name}.bias": (depth, h)}
    for name, (rows, columns) in widths.items():
        shapes |= {f"blocks.{name}.weight": (depth, rows, columns), f"blocks.{name}.bias": (depth, columns)}
    return shapes


def initial_parameters(config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """Float32 start: weights normal with deviation 0.02, the two that write to the residual stream 0.02 / sqrt(2 L).

    The normal variate of an element is the inverse normal distribution of its 32 random bits, whose counter is the
    element's index.
    """
    shapes = sorted(parameter_shapes(config).items())
    return {name: initial_part(config, seed, name, tuple((0, n) for n in shape)) for name, shape in shapes}


def initial_part(config: ModelConfig, seed: int, name: str, part: Part) -> np.ndarray:
    """Of the start of one parameter what lies between bounds along each axis, ``((0, L), (i, i + rows), ...)``.

    The bits of the whole, of which nothing else is computed; beside the part, memory for 2^16 draws at a time.
    """
    shape = tuple(stop - start for start, stop in part)
    if name.endswith((".gain", ".bias")):
        return np.full(shape, name.endswith(".gain"), np.float32)
    key = fold_name(fold_name(as_key(seed), "parameters"), name)
    writes = ("attention_out" in name) or ("mlp_down" in name)
    deviation = 0.02 / (2 * config.layers) ** 0.5 if writes else 0.02
    rows, columns = _row_indices(parameter_shapes(config)[name], part), np.arange(*part[-1], dtype=np.uint64)
    drawn = np.empty((len(rows), len(columns)), np.float32)
    several = max(1, _DRAWN_AT_ONCE // max(1, len(columns)))
    for first in range(0, len(rows), several):
        words = random_bits(key, rows[first : first + several, None] + columns)
        drawn[first : first + several] = ndtri((words.astype(np.float64) + 0.5) * 2.0**-32) * deviation
    return drawn.reshape(shape)


def _row_indices(shape: tuple[int, ...], part: Part) -> np.ndarray:
    """Row-major index, in the whole array, of column 0 of every row of a part."""
    rows: np.ndarray = np.zeros(1, np.uint64)
    for (start, stop), size in zip(part[:-1], shape[:-1], strict=True):
        rows = (rows[:, None] * np.uint64(size) + np.arange(start, stop, dtype=np.uint64)).reshape(-1)
    return rows * np.uint64(shape[-1])


def dropout_keys(config: ModelConfig, seed: int, step: int) -> dict[str, np.ndarray] | None:
    """Keys of the two dropouts of every layer, (L, 2) uint32 each; None without dropout."""
    if config.dropout == 0:
        return None
    keys = {}
    for site in ("attention_out", "mlp_down"):
        base = fold_in(fold_name(as_key(seed), f"dropout.{site}"), step)
        keys[site] = np.array([fold_in(base, layer) for layer in range(config.layers)], np.uint32)
    return keys


def rounding_keys(config: ModelConfig, policy: Arithmetic, seed: int, step: int) -> dict[str, np.ndarray]:
    """Keys of the products that round a gradient stochastically, (L, 2) uint32 by ``site.pass``.

    A site's key in a layer is what its ``qsim.dot_general.for_policy`` takes; those of its passes are children of it.
    """
    keys = {}
    drawing = {(site, p) for _, site, p, row in policy.rows() if row.gradient_rounding == "stochastic"}
    for site, direction in sorted(drawing):
        base = fold_in(fold_name(as_key(seed), f"quantization.{site}"), step)
        of_layers = [Passes.key_of(direction, fold_in(base, layer)) for layer in range(config.layers)]
        keys[f"{site}.{direction}"] = np.array(of_layers, np.uint32)
    return keys


def step_keys(config: ModelConfig, policy: Arithmetic, seed: int, step: int) -> dict[str, np.ndarray] | None:
    """Keys of all that a step draws, dropout and roundings; None where it draws nothing."""
    of_model = (dropout_keys(config, seed, step) or {}) | rounding_keys(config, policy, seed, step)
    written = write_back_keys(policy, parameter_shapes(config), seed, step)
    return of_model | output_keys(policy, config.layers, seed, step) | written or None


def _split(parameters: Parameters) -> tuple[Parameters, Parameters]:
    """(blocks with their prefix removed, the rest)."""
    blocks = {k.removeprefix("blocks."): v for k, v in parameters.items() if k.startswith("blocks.")}
    return blocks, {k: v for k, v in parameters.items() if not k.startswith("blocks.")}


def _positions(ar: Calculator, config: ModelConfig, parameters: Parameters) -> Array | None:
    """What is added to the embedding: a parameter, a constant or nothing."""
    if config.positions == "sinusoidal":
        return ar.xp.asarray(sinusoidal_table(config.length, config.hidden, config.position_scale))
    learned = parameters.get("embedding.positions")
    return None if learned is None else ar.shards.whole_rows(learned, config.length)


def _logits_weight(ar: Calculator, config: ModelConfig, parameters: Parameters) -> Array:
    """(h, V): a parameter, or the token table transposed where the two are tied."""
    if not config.tied:
        return parameters["logits.weight"]
    table = ar.shards.whole_rows(parameters["embedding.tokens"], config.vocabulary)
    return ar.shards.own_columns(ar.xp.swapaxes(table, 0, 1))


def forward(
    ar: Calculator,
    config: ModelConfig,
    parameters: Parameters,
    tokens: Array,
    keys: dict[str, Array] | None = None,
    *,
    recompute: bool = False,
) -> tuple[Array, dict[str, Any]]:
    """Logits (N, V) of tokens (B, T), and what the backward pass needs.  ``parameters``: the working copy.

    recompute: of every block keep its input alone, in place of what ``block_backward`` needs.
    """
    blocks, rest = _split(parameters)
    table = ar.shards.whole_rows(rest["embedding.tokens"], config.vocabulary)
    x = layers.embedding_forward(ar, tokens, table, _positions(ar, config, rest))

    def body(x: Array, layer: dict[str, Array]) -> tuple[Array, layers.Cache]:
        y, cache = block_forward(ar, config, layer, x, tokens.shape[0])
        return y, {"input": x} if recompute else cache

    x, caches = ar.scan(body, x, _with_keys(blocks, keys))
    x, norm = layers.layernorm_forward(
        ar,
        "layernorm_final",
        x,
        rest["layernorm_final.gain"],
        rest["layernorm_final.bias"],
        config.layernorm_epsilon,
    )
    logits = layers.linear_forward(ar, "logits", x, _logits_weight(ar, config, rest), None)
    return logits, {"blocks": caches, "layernorm_final": norm, "head_input": x}


def _with_keys(blocks: Parameters, keys: dict[str, Array] | None) -> Parameters:
    return blocks if keys is None else blocks | {f"{site}.key": key for site, key in keys.items()}


def block_forward(
    ar: Calculator, config: ModelConfig, p: Parameters, x: Array, batch: int
) -> tuple[Array, layers.Cache]:
    """x + attention(LN(x)), then x + MLP(LN(x)); dropout before each addition.  With what the backward pass needs."""
    x, active, cache = _block_to_gelu(ar, config, p, x, batch)
    branch, kept = _write(ar, config, "mlp_down", p, active)
    return layers.residual_forward(ar, x, branch), cache | _kept("mlp_down", kept)


def block_cache(ar: Calculator, config: ModelConfig, p: Parameters, x: Array, batch: int) -> layers.Cache:
    """What the backward pass needs of a block, of which ``block_forward`` computed the rest before."""
    cache = _block_to_gelu(ar, config, p, x, batch)[2]
    return cache | _kept("mlp_down", layers.dropout_kept(ar, p.get("mlp_down.key"), x.shape, config.dropout))


def _block_to_gelu(
    ar: Calculator, config: ModelConfig, p: Parameters, x: Array, batch: int
) -> tuple[Array, Array, layers.Cache]:
    """The residual stream after attention, the output of GELU, and what the backward pass needs."""
    epsilon = config.layernorm_epsilon
    a, norm_1 = layers.layernorm_forward(ar, "layernorm_1", x, p["layernorm_1.gain"], p["layernorm_1.bias"], epsilon)
    qkv = layers.linear_forward(ar, "qkv", a, p["qkv.weight"], p["qkv.bias"])
    slopes = ar.xp.asarray(alibi_slopes(config.heads)) if config.positions == "alibi" else None
    mixed, attention = layers.attention_forward(ar, qkv, batch, config.heads, slopes)
    branch, kept = _write(ar, config, "attention_out", p, mixed)
    x = layers.residual_forward(ar, x, branch)
    m, norm_2 = layers.layernorm_forward(ar, "layernorm_2", x, p["layernorm_2.gain"], p["layernorm_2.bias"], epsilon)
    up = layers.linear_forward(ar, "mlp_up", m, p["mlp_up.weight"], p["mlp_up.bias"])
    active = layers.gelu_forward(ar, up)
    cache = {"layernorm_1": norm_1, "qkv": a, "attention": attention, "attention_out": mixed}
    cache |= {"layernorm_2": norm_2, "mlp_up": m, "gelu": up, "mlp_down": active}
    return x, active, cache | _kept("attention_out", kept)


def _kept(site: str, kept: Array | None) -> layers.Cache:
    return {} if kept is None else {f"kept.{site}": kept}


def _write(ar: Calculator, config: ModelConfig, site: str, p: Parameters, x: Array) -> tuple[Array, Array | None]:
    """The projection that writes to the residual stream, with its dropout."""
    y = layers.linear_forward(ar, site, x, p[f"{site}.weight"], p[f"{site}.bias"])
    kept = layers.dropout_kept(ar, p.get(f"{site}.key"), y.shape, config.dropout)
    return layers.dropout(ar, ar.at(site, "fprop"), y, kept, config.dropout), kept


def loss_and_gradients(
    ar: Calculator,
    config: ModelConfig,
    parameters: Parameters,
    tokens: Array,
    targets: Array,
    *,
    loss_scale: Array,
    chunks: int,
    accumulation: int = 1,
    keys: dict[str, Array] | None = None,
) -> tuple[Array, Parameters]:
    """Mean cross-entropy and its gradients times ``loss_scale``, float32, by parameter name.

    accumulation: so many contiguous parts of the batch one after another, ``chunks`` / accumulation chunks each.
    What a part has of the tree over chunks is kept, and the tree finished over all parts: the same bits.
    """

    def of_part(tokens: Array, targets: Array) -> tuple[Array, Parameters]:
        logits, caches = forward(ar, config, parameters, tokens, keys, recompute=config.recompute)
        own = ar.shards.own_chunks(chunks) // accumulation
        losses, cache = layers.cross_entropy_rows(ar, logits, targets.reshape(-1))
        sums = layers.loss_sums(ar, losses, own)
        dlogits = layers.cross_entropy_backward(ar, cache, targets.reshape(-1), loss_scale, rows)
        return sums, backward(ar, config, parameters, tokens, caches, dlogits, own, keys)

    rows = targets.size * ar.shards.data
    parts = of_part(tokens, targets) if accumulation == 1 else ar.in_parts(of_part, accumulation, tokens, targets)
    sums, folded = parts
    gradients = {name: layers.add_chunks(ar, gradient) for name, gradient in folded.items()}
    if config.tied:
        own = ar.xp.swapaxes(ar.shards.all_columns(gradients.pop("logits.weight")), 0, 1)
        own = ar.shards.own_rows("embedding.tokens", own)
        reduction = ar.stage("gradient_reduction")
        gradients["embedding.tokens"] = reduction.output(reduction.add(gradients["embedding.tokens"], own))
    return layers.mean_loss(ar, ar.shards.all_rows(sums), rows), gradients


def backward(
    ar: Calculator,
    config: ModelConfig,
    parameters: Parameters,
    tokens: Array,
    caches: dict[str, Any],
    dlogits: Array,
    chunks: int,
    keys: dict[str, Array] | None = None,
) -> Parameters:
    """Gradients of every parameter from the gradient of the logits, the tree over chunks unfinished: (K, ...).

    On several devices what each keeps of them, over the chunks of all.  ``logits.weight`` has its own even where it
    is tied.  With ``config.recompute`` blocks' caches are their inputs.
    """
    blocks, rest = _split(parameters)
    gradients: Parameters = {}

    def of_all_devices(gradients: Parameters, prefix: str = "") -> Parameters:
        return {name: layers.of_all_devices(ar, f"{prefix}{name}", x) for name, x in gradients.items()}

    dx, gradients["logits.weight"] = layers.linear_backward(
        ar, "logits", caches["head_input"], _logits_weight(ar, config, rest), dlogits, chunks
    )
    dx, gradients["layernorm_final.gain"], gradients["layernorm_final.bias"] = layers.layernorm_backward(
        ar, "layernorm_final", caches["layernorm_final"], rest["layernorm_final.gain"], dx, chunks
    )

    def body(dx: Array, layer: dict[str, Any]) -> tuple[Array, Parameters]:
        p, cache = layer["parameters"], layer["cache"]
        if config.recompute:
            with ar.unrecorded():
                cache = block_cache(ar, config, p, cache["input"], tokens.shape[0])
        dx, own = block_backward(ar, config, p, cache, dx, tokens.shape[0], chunks)
        return dx, of_all_devices(own, "blocks.")

    layers_in = {"parameters": _with_keys(blocks, keys), "cache": caches["blocks"]}
    gradients = of_all_devices(gradients)
    dx, stacked = ar.scan(body, dx, layers_in, reverse=True)
    gradients |= {f"blocks.{name}": ar.xp.swapaxes(gradient, 0, 1) for name, gradient in stacked.items()}
    embedded = {"embedding.tokens": layers.embedding_backward(ar, tokens, dx, config.vocabulary, chunks)}
    if config.positions == "learned":
        embedded["embedding.positions"] = layers.positions_backward(ar, dx, len(tokens), config.length, chunks)
    return gradients | of_all_devices(embedded)


def block_backward(
    ar: Calculator, config: ModelConfig, p: Parameters, cache: Any, dx: Array, batch: int, chunks: int
) -> tuple[Array, Parameters]:
    """Gradient of the block's input and, by chunks, of its parameters (K, ...)."""
    gradients: Parameters = {}

    def through_linear(site: str, dy: Array) -> Array:
        x, name = cache[site], f"{site}.weight"
        gradients[f"{site}.bias"] = layers.bias_gradient(ar, site, dy, chunks)
        keys = p.get(f"{site}.dgrad.key"), p.get(f"{site}.wgrad.key")
        dy, gradients[name] = layers.linear_backward(ar, site, x, p[name], dy, chunks, keys)
        return dy

    def through_norm(site: str, dy: Array) -> Array:
        gain = p[f"{site}.gain"]
        dy, gradients[f"{site}.gain"], gradients[f"{site}.bias"] = layers.layernorm_backward(
            ar, site, cache[site], gain, dy, chunks
        )
        return dy

    def through_dropout(site: str, dy: Array) -> Array:
        return layers.dropout(ar, ar.at(site, "dgrad"), dy, cache.get(f"kept.{site}"), config.dropout)

    branch = through_linear("mlp_down", through_dropout("mlp_down", dx))
    branch = through_linear("mlp_up", layers.gelu_backward(ar, cache["gelu"], branch))
    dx = layers.residual_backward(ar, dx, through_norm("layernorm_2", branch))
    branch = through_linear("attention_out", through_dropout("attention_out", dx))
    branch = layers.attention_backward(ar, cache["attention"], branch, batch, config.heads)
    branch = through_norm("layernorm_1", through_linear("qkv", branch))
    return layers.residual_backward(ar, dx, branch), gradients
