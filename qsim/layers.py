"""Layers, forward and backward, written once as array code over the arithmetic of their sites.

Shapes: N = B T rows of a batch, h hidden, H heads, d = h / H, C reduction chunks; on several devices those of the
parts that ``ar.shards`` holds here.  A backward function returns the
gradient of its input (rounded by the site's ``dgrad``) and the gradients of its parameters, which are sums over
tokens: each of C contiguous chunks of the batch is summed and rounded by ``wgrad``, and the chunks are added in
float32 by a fixed tree, so that the sum does not depend on how chunks are spread over devices or over the parts of a
step.  Those functions return the tree as far as the chunks they were given allow, (K, ...); ``add_chunks`` ends it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from precision.backends import is_concrete
from precision.rounding_words import NOT_ROUNDED
from qsim.masks import alibi_bias, causal_mask, masked
from qsim.site import Deferred, patterns
from qsim.sites import Calculator, Site

Array = Any
Cache = dict[str, Any]
Gradients = dict[str, Array]


def in_chunks(x: Array, chunks: int) -> Array:
    """(N, ...) -> (C, N / C, ...), contiguous."""
    return x.reshape(chunks, x.shape[0] // chunks, *x.shape[1:])


def fold_chunks(ar: Calculator, partial: Array | Deferred) -> Array:
    """(C, ...) -> (K, ...), float32: the lower levels of the tree over chunks, K odd.

    C = K 2^v: blocks of 2^v neighbours are whole branches of the tree wherever in a batch those C chunks begin, as
    long as that is a multiple of C.
    """
    x = partial if isinstance(partial, Deferred) else Deferred(partial)
    chunks, *shape = x.values.shape
    block = chunks & -chunks
    if block == 1 and ar.hardware:  # which would move between devices what is a sum of one in float32
        return x.finish(x.values)
    (folded,) = ar.float32.unrounded(
        "column_sums", lambda terms: (ar.float32.sum(x.finish(terms), axis=1),),
        x.values.reshape(chunks // block, block, *(shape if ar.hardware else [-1])), words=x.words,
    )  # fmt: skip
    return folded.reshape(-1, *shape)


def of_all_devices(ar: Calculator, name: str, folded: Array) -> Array:
    """(K, ...) -> (K', ...): of a parameter's gradient by a part of the batch, as much as is kept here, over all
    devices, the tree over their chunks as far as it goes."""
    return folded if ar.shards.data == 1 else fold_chunks(ar, ar.shards.chunks_together(name, folded))


def add_chunks(ar: Calculator, folded: Array) -> Array:
    """(K, ...) -> (...): the rest of the tree, over what ``fold_chunks`` gave for all parts of the batch.

    Float32, the sum rounded as the policy's stage says.
    """
    s = ar.stage("gradient_reduction")
    return s.output(s.sum(folded, axis=0))


def sum_over_rows(ar: Calculator, wgrad: Site, rows: Array, chunks: int) -> Array:
    """(N, n) -> (K, n)."""
    (sums,) = wgrad.fused(
        "column_sums", lambda x: (wgrad.sum(x, axis=1),), in_chunks(rows, chunks), words=NOT_ROUNDED
    )
    return fold_chunks(ar, sums)


def sum_of_products(ar: Calculator, wgrad: Site, x: Array, y: Array, chunks: int) -> Array:
    """The same of x y."""
    (sums,) = wgrad.fused(
        "column_products",
        lambda x, y: (wgrad.sum(wgrad.multiply(x, y), axis=1),),
        in_chunks(x, chunks),
        in_chunks(y, chunks),
    )
    return fold_chunks(ar, sums)


def linear_forward(ar: Calculator, site: str, x: Array, weight: Array, bias: Array | None) -> Array:
    """y = round(round(x W) + b).  (N, i) x (i, o) -> (N, o)"""
    fprop, shards = ar.at(site, "fprop"), ar.shards
    ar.tell(f"{site}.input", x)
    products = shards.all_columns(fprop.matmul(x, shards.whole_rows(weight, x.shape[1])))
    if bias is None:
        return fprop.own_output(products)
    return rounded_biased(fprop, products, bias)


def rounded_biased(s: Site, products: Array, bias: Array) -> Array:
    """round(round(x) + b).  (N, o), (o) -> (N, o)"""
    y = s.deferred(products)
    operands = y.values, s.narrowed(bias)
    return s.fused("biased", lambda x, b: (s.add(y.finish(x), b),), *operands, words=y.words)[0]


def linear_backward(
    ar: Calculator,
    site: str,
    x: Array,
    weight: Array,
    dy: Array,
    chunks: int,
    keys: tuple[Array | None, Array | None] = (None, None),
) -> tuple[Array, Array]:
    """(dx, dW (K, i, o)) of ``linear_forward``; the gradient of its bias is ``bias_gradient``.

    ``keys``: of dgrad and wgrad, where these round dy stochastically: both by its elements' place in (N, o).
    """
    xp, shards, dgrad, wgrad = ar.xp, ar.shards, ar.at(site, "dgrad"), ar.at(site, "wgrad")
    turned = xp.swapaxes(shards.turned(shards.whole_rows(weight, x.shape[1])), 0, 1)  # (o, i)
    dx = dgrad.own_output(shards.all_columns(dgrad.matmul(dy, turned, keys[0])))
    rows = xp.swapaxes(in_chunks(x, chunks), 1, 2)  # (C, i, N / C)
    dw = fold_chunks(ar, wgrad.deferred(wgrad.matmul(rows, in_chunks(shards.own_columns(dy), chunks), keys[1])))
    return dx, dw


def bias_gradient(ar: Calculator, site: str, dy: Array, chunks: int) -> Array:
    """(N, n) -> (K, n)."""
    wgrad = ar.at(site, "wgrad")
    return ar.shards.all_columns(sum_over_rows(ar, wgrad, wgrad.narrowed(ar.shards.own_columns(dy)), chunks))


def layernorm_forward(
    ar: Calculator, site: str, x: Array, gain: Array, bias: Array, epsilon: float
) -> tuple[Array, Cache]:
    """y = (x - mean) / sqrt(var + eps) * gain + bias over the last axis.  (N, h)

    mean = sum / h by a product with RN(1/h); 1 / sqrt as a correctly rounded root, then a quotient of one column.
    """
    s = ar.at(site, "fprop")

    def composed(x: Array, gain: Array, bias: Array) -> tuple[Array, Array, Array]:
        per_feature = s.scalar(1 / x.shape[-1])
        mean = s.multiply(s.sum(x), per_feature)[:, None]
        centred = s.subtract(x, mean)
        variance = s.multiply(s.sum(s.multiply(centred, centred)), per_feature)[:, None]
        deviation = s.square_root(s.add(variance, s.scalar(epsilon)))
        inverse = s.divide(ar.xp.ones_like(deviation), deviation)
        normal = s.multiply(centred, inverse)
        return s.add(s.multiply(normal, gain), bias), normal, inverse

    constants = patterns(1 / x.shape[-1], epsilon)
    y, normal, inverse = s.fused("layernorm", composed, x, gain, bias, words=constants)
    return y, {"normal": normal, "inverse": inverse}


def layernorm_backward(
    ar: Calculator, site: str, cache: Cache, gain: Array, dy: Array, chunks: int
) -> tuple[Array, Array, Array]:
    """(dx, dgain, dbias):  g = dy gain,  dx = (g - mean(g) - normal mean(g normal)) inverse."""
    s, normal = ar.at(site, "dgrad"), cache["normal"]

    def composed(normal: Array, inverse: Array, gain: Array, dy: Array) -> tuple[Array]:
        per_feature = s.scalar(1 / dy.shape[-1])
        g = s.multiply(dy, gain)
        mean = s.multiply(s.sum(g), per_feature)[:, None]
        slope = s.multiply(s.sum(s.multiply(g, normal)), per_feature)[:, None]
        inner = s.subtract(s.subtract(g, mean), s.multiply(normal, slope))
        return (s.multiply(inner, inverse),)

    operands = normal, cache["inverse"], gain, dy
    (dx,) = s.fused("layernorm_gradient", composed, *operands, words=patterns(1 / dy.shape[-1]))
    wgrad = ar.at(site, "wgrad")
    return dx, sum_of_products(ar, wgrad, dy, normal, chunks), sum_over_rows(ar, wgrad, dy, chunks)


def split_heads(ar: Calculator, x: Array, batch: int, heads: int, parts: int) -> list[Array]:
    """(N, parts h) -> ``parts`` arrays (B H, T, d)."""
    rows, width = x.shape
    x = x.reshape(batch, rows // batch, parts, heads, width // (parts * heads))
    x = ar.shards.own_columns(x, 3)
    x = ar.xp.transpose(x, (2, 0, 3, 1, 4))  # (parts, B, H, T, d)
    return [x[i].reshape(-1, *x.shape[3:]) for i in range(parts)]


def merge_heads(ar: Calculator, arrays: list[Array], batch: int) -> Array:
    """The inverse of ``split_heads``."""
    parts, (blocks, length, width) = len(arrays), arrays[0].shape
    x = ar.xp.stack(arrays).reshape(parts, batch, blocks // batch, length, width)
    x = ar.xp.transpose(x, (1, 3, 0, 2, 4))  # (B, T, parts, H, d)
    return ar.shards.all_columns(x, 3).reshape(batch * length, -1)


def attention_forward(
    ar: Calculator, qkv: Array, batch: int, heads: int, slopes: Array | None = None
) -> tuple[Array, Cache]:
    """softmax(q k^T / sqrt d) v by head, causal; 1 / sqrt d is applied to q.  (N, 3 h) -> (N, h)

    slopes (H,): of ALiBi, whose bias is added to the rounded products; the sum is rounded again, both by ``scores``.
    The derivative of the sum is 1, so that the backward pass is the same with them.
    """
    q, k, v = split_heads(ar, qkv, batch, heads, 3)
    mixed, cache = attend(ar, q, k, v, causal_mask(ar, q.shape[1]), batch, slopes)
    return merge_heads(ar, [mixed], batch), cache


def attend(
    ar: Calculator, q: Array, k: Array, v: Array, mask: Array, batch: int, slopes: Array | None
) -> tuple[Array, Cache]:
    """The same of separate heads, q (B H, T, d), k and v (B K, S, d), each for H / K heads of q; mask (T, S)."""
    s = ar.at("scores", "fprop")
    q = s.output(s.multiply(q, s.scalar(q.shape[-1] ** -0.5)))
    products = by_group(s, q, ar.xp.swapaxes(k, 1, 2))
    if slopes is not None:
        scores = s.output(masked(ar, mask, products))
        bias = alibi_bias(ar, ar.shards.own_columns(slopes), mask)
        products = s.add(scores.reshape(batch, -1, *mask.shape), bias).reshape(scores.shape)
    weights = softmax_forward(ar, s.deferred(products, partial(masked, ar, mask)), mask)
    s = ar.at("values", "fprop")
    return s.own_output(by_group(s, weights, v)), {"q": q, "k": k, "v": v, "weights": weights}


def by_group(s: Site, a: Array, b: Array) -> Array:
    """a_i b_(i // G): products of G neighbouring blocks with the same one.  (B G, m, k) x (B, k, n) -> (B G, m, n)"""
    if len(a) == len(b):
        return s.matmul(a, b)
    products = s.matmul(a.reshape(b.shape[0], -1, a.shape[2]), b)
    return products.reshape(*a.shape[:2], b.shape[2])


def softmax_forward(ar: Calculator, scores: Array | Deferred, mask: Array) -> Array:
    """exp(x - max) / sum over the allowed positions; 0 at the others.  (B, T, T), mask (T, T)"""
    s = ar.at("softmax", "fprop")
    deferred = scores if isinstance(scores, Deferred) else Deferred(scores)

    def composed(values: Array, mask: Array) -> tuple[Array]:
        x = deferred.finish(values)
        powers = masked(ar, mask, s.exp(s.subtract(x, s.max(x, mask))))
        total = s.sum(powers)[..., None]
        return (s.multiply(powers, s.divide(ar.xp.ones_like(total), total)),)

    return s.fused("softmax", composed, deferred.values, mask, words=deferred.words)[0]


def softmax_backward(ar: Calculator, weights: Array, dweights: Array | Deferred, mask: Array) -> Array:
    """dx = p (dp - sum(p dp)), dp being 0 where the mask excludes."""
    s = ar.at("softmax", "dgrad")
    dp = dweights if isinstance(dweights, Deferred) else Deferred(dweights)

    def composed(p: Array, x: Array, mask: Array) -> tuple[Array]:
        x = masked(ar, mask, dp.finish(x))
        dot = s.sum(s.multiply(p, x))[..., None]
        return (s.multiply(p, s.subtract(x, dot)),)

    return s.fused("softmax_gradient", composed, weights, dp.values, mask, words=dp.words)[0]


def attention_backward(ar: Calculator, cache: Cache, dy: Array, batch: int, heads: int) -> Array:
    """dqkv (N, 3 h) from dy (N, h)."""
    xp = ar.xp
    (dmixed,) = split_heads(ar, dy, batch, heads, 1)
    weights, mask = cache["weights"], causal_mask(ar, dmixed.shape[1])
    s = ar.at("values", "dgrad")
    dweights = s.deferred(s.matmul(dmixed, xp.swapaxes(cache["v"], 1, 2)), partial(masked, ar, mask))
    dv = s.own_output(s.matmul(xp.swapaxes(weights, 1, 2), dmixed))
    dscores = softmax_backward(ar, weights, dweights, mask)
    s = ar.at("scores", "dgrad")
    dq = s.own_output(s.matmul(dscores, cache["k"]))
    dq = s.output(s.multiply(dq, s.scalar(dq.shape[-1] ** -0.5)))
    dk = s.own_output(s.matmul(xp.swapaxes(dscores, 1, 2), cache["q"]))
    return merge_heads(ar, [dq, dk, dv], batch)


def gelu_forward(ar: Calculator, x: Array) -> Array:
    return ar.at("gelu", "fprop").gelu(x)


def gelu_backward(ar: Calculator, x: Array, dy: Array) -> Array:
    return ar.at("gelu", "dgrad").gelu_backward(x, dy)


def dropout_kept(ar: Calculator, key: Array | None, shape: tuple[int, ...], probability: float) -> Array | None:
    """Which elements stay: those whose 32 random bits are at least round(p 2^32).  All (None) without key or p."""
    if probability == 0 or key is None:
        return None
    return ar.random_words(key, shape) >= np.uint32(round(probability * 2**32))


def dropout(ar: Calculator, site: Site, x: Array, kept: Array | None, probability: float) -> Array:
    """Kept values times RN(1 / (1 - p)), rounded; its own derivative."""
    if kept is None:
        return x
    scaled = site.multiply(x, site.scalar(1 / (1 - probability)))
    return site.output(masked(ar, kept, scaled))


def residual_forward(ar: Calculator, x: Array, branch: Array) -> Array:
    return _rounded_sum(ar, ar.at("residual", "fprop"), x, branch)


def _rounded_sum(ar: Calculator, s: Site, x: Array, y: Array) -> Array:
    (total,) = s.fused("total", lambda x, y: (s.add(x, y),), ar.flat(x), ar.flat(y))
    return total.reshape(x.shape)


def residual_backward(ar: Calculator, dx: Array, dbranch: Array) -> Array:
    """Sum of the gradients that reach the stream along it and through the branch."""
    return _rounded_sum(ar, ar.at("residual", "dgrad"), dx, dbranch)


def refuse_outside(indices: Array, size: int, what: str) -> None:
    """ValueError for an index outside 0 ... size - 1, where indices are known.

    In traced code nothing is refused: a target from -size on counts from the end, any other makes its loss NaN, and
    neither has a one in its gradient; tokens count so too, and those outside take a row at an end of the table, or
    give their gradient to none.
    """
    if is_concrete(indices) and indices.size and not (indices.min() >= 0 and indices.max() < size):
        outside = indices[(indices < 0) | (indices >= size)]
        raise ValueError(f"{what} {outside[0]} is not one of 0 ... {size - 1}; encode the text for this vocabulary")


def embedding_forward(ar: Calculator, tokens: Array, table: Array, positions: Array | None) -> Array:
    """Token row, plus position row where there are positions.  (B, T) -> (N, h)"""
    refuse_outside(tokens, len(table), "token")
    s = ar.at("embedding", "fprop")
    batch, length = tokens.shape
    rows = table[tokens]  # (B, T, h)
    if positions is not None:
        rows = s.add(rows, ar.xp.broadcast_to(positions[:length][None], rows.shape))
    return s.output(rows).reshape(batch * length, -1)


def embedding_backward(ar: Calculator, tokens: Array, dx: Array, vocabulary: int, chunks: int) -> Array:
    """(K, V, h), the gradient of the token table: rows added in order within a chunk."""
    s = ar.at("embedding", "wgrad")
    (scattered,) = s.unrounded(
        "scattered_rows",
        lambda tokens, rows: (s.scatter_add_rows(tokens, rows, vocabulary),),
        tokens.reshape(chunks, -1),
        in_chunks(dx, chunks),
        sizes={"v": vocabulary},
    )
    return fold_chunks(ar, s.deferred(scattered))


def positions_backward(ar: Calculator, dx: Array, batch: int, length: int, chunks: int) -> Array:
    """(K, T, h), the gradient of learned positions: by a tree over a chunk's sequences, 0 beyond their length."""
    s = ar.at("embedding", "wgrad")
    rows, width = dx.shape
    sequences = dx.reshape(chunks, batch // chunks, rows // batch, width)
    used = fold_chunks(ar, s.output(s.sum(sequences, axis=1)))  # (K, T used, h)
    rest = ar.xp.zeros((len(used), length - used.shape[1], width), dtype=used.dtype)
    return ar.xp.concatenate([used, rest], axis=1)


def cross_entropy_forward(ar: Calculator, logits: Array, targets: Array, chunks: int) -> tuple[Array, Cache]:
    """Mean of log(sum exp(z)) - z[target] with z = logits - max.  (N, V), (N,) -> ()"""
    losses, cache = cross_entropy_rows(ar, logits, targets)
    losses = ar.shards.all_rows(losses)
    return mean_loss(ar, loss_sums(ar, losses, chunks), len(losses)), cache


def cross_entropy_rows(ar: Calculator, logits: Array, targets: Array) -> tuple[Array, Cache]:
    """(N, V), (N,) -> (N,)"""
    refuse_outside(targets, logits.shape[1], "target")
    s = ar.at("loss", "fprop")

    def composed(logits: Array, targets: Array) -> tuple[Array, Array, Array]:
        shifted = s.subtract(logits, s.max(logits))
        powers = s.exp(shifted)
        total = s.sum(powers)[:, None]
        picked = ar.xp.take_along_axis(shifted, targets[:, None], axis=1)
        return s.subtract(s.log(total), picked)[:, 0], powers, total

    losses, powers, total = s.unrounded("cross_entropy", composed, logits, targets)
    return losses, {"powers": powers, "total": total}


def loss_sums(ar: Calculator, losses: Array, chunks: int) -> Array:
    """(N,) -> (C,), summed by chunk."""
    return ar.at("loss", "fprop").sum(in_chunks(losses, chunks), axis=1)


def mean_loss(ar: Calculator, sums: Array, rows: int) -> Array:
    """The tree over all chunks' sums (C,), times RN(1 / rows)."""
    s = ar.at("loss", "fprop")
    return s.output(s.multiply(s.sum(sums, axis=0), s.scalar(1 / rows)))


def cross_entropy_backward(ar: Calculator, cache: Cache, targets: Array, loss_scale: Array, rows: int) -> Array:
    """dlogits = (softmax - onehot) (loss_scale / rows), rounded once; ``rows``: of the whole batch."""
    s = ar.at("loss", "dgrad")

    def composed(powers: Array, total: Array, targets: Array, factor: Array) -> tuple[Array]:
        chances = s.multiply(powers, s.divide(ar.xp.ones_like(total), total))
        hit = ar.xp.arange(chances.shape[1])[None, :] == targets[:, None]
        difference = ar.xp.where(hit, s.subtract(chances, s.scalar(1)), chances)
        return (s.multiply(difference, factor),)

    factor = s.multiply(loss_scale, s.scalar(1 / rows)).reshape(1)
    return s.fused("cross_entropy_gradient", composed, cache["powers"], cache["total"], targets, factor)[0]
