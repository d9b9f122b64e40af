"""Matrix products under an ordered accumulator, in array operations, one block of k at a time: NumPy and JAX.

The steps are those of ``accumulation``; ``structure`` is the executor's (its ``array_module`` and ``scan``).
Patterns are uint32; the axes of an intermediate are (product of the block, chain, B, m, n).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from precision import accumulation as step
from precision import exact_sums
from precision.accumulation_plan import Plan, plan_of
from precision.accumulator import Accumulator
from precision.format import Format
from precision.summation_order import ABSENT, tiles

Array = Any
MINUS_ZERO = np.uint32(1 << 31)


class Events(NamedTuple):
    """How often each thing happened, by row: int32 (B, m)."""

    underflowed: Any
    swamped: Any
    misaligned: Any
    overflowed: Any


class OrderedSum:
    """One record for operands of two formats on one executor."""

    def __init__(
        self, structure: Any, accumulator: Accumulator, inputs: tuple[Format, Format], counting: bool
    ) -> None:
        self.structure, self.xp, self.scan = structure, structure.array_module, structure.scan
        self.record, self.inputs, self.counting = accumulator, inputs, counting
        self.f: Plan = plan_of(accumulator, inputs)

    def __call__(self, a: Array, b: Array, c: Array) -> tuple[Array, Events]:
        """Patterns of (B, m, k) x (B, k, n) onto c (B, m, n), and what happened on the way."""
        cuts = tiles(self.record, self.inputs[0], a.shape[2])
        # made of c, so that under shard_map they vary with it
        none = (0 * c.sum(axis=2, dtype=np.uint32)).astype(np.int32)
        state = (c, Events(none, none, none, none))
        alike = [cut for cut in cuts if cut.shape == cuts[0].shape]
        if len(alike) > 2:
            state = self._equal_tiles(state, a, b, alike)
            cuts = cuts[len(alike) :]
        for cut in cuts:
            state = self._tile(state, *self._blocks(a, b, cut), cut)
        return state

    def _equal_tiles(self, state: Any, a: Array, b: Array, cuts: list[np.ndarray]) -> Any:
        blocks = [self._blocks(a, b, cut) for cut in cuts]
        stacked = {str(i): self.xp.stack([block[i] for block in blocks]) for i in (0, 1)}

        def body(state: Any, one: dict[str, Array]) -> tuple[Any, None]:
            return self._tile(state, one["0"], one["1"], cuts[0]), None

        return self.scan(body, state, stacked)[0]

    def _blocks(self, a: Array, b: Array, cut: np.ndarray) -> tuple[Array, Array]:
        """(step, product, chain, B, m) of a and (..., n) of b; +0 x -0, which changes no sum, in place of nothing."""
        index, absent = np.maximum(cut, 0), cut == ABSENT
        index = np.minimum(index, a.shape[2] - 1)
        beyond = cut >= a.shape[2]
        parts = []
        for x, axis, filler in ((a, 2, np.uint32(0)), (b, 1, MINUS_ZERO)):
            taken = self.xp.moveaxis(self.xp.take(x, self.xp.asarray(index.reshape(-1)), axis=axis), axis, 0)
            taken = taken.reshape(*cut.shape, *taken.shape[1:])
            if absent.any():
                taken = self.xp.where(absent[..., None, None], filler, taken)
            parts.append(self.xp.where(beyond[..., None, None], np.uint32(0), taken) if beyond.any() else taken)
        return parts[0], parts[1]

    def _tile(self, state: Any, a: Array, b: Array, cut: np.ndarray) -> Any:
        s, events = state
        if self.record.start == "first":
            sums, events = self._chain(s[None], events, a, b, cut)
            return sums[0], events
        begins = np.where((cut == ABSENT).all(axis=(0, 1)), MINUS_ZERO, np.uint32(0))
        start = begins[:, None, None, None].astype(np.uint32) | (0 * s)
        sums, events = self._chain(start, events, a, b, cut)
        total, events = self._tree(sums, events)
        return self._add(step.take(s, self.f.flush_start), total, events, self.f.tile)

    def _chain(self, s: Array, events: Events, a: Array, b: Array, cut: np.ndarray) -> Any:
        """s (chain, B, m, n) through all blocks of its chain."""
        there = np.broadcast_to((cut != ABSENT).any(axis=1)[:, :, None, None, None], (*cut.shape[::2], 1, 1, 1))
        always = bool(there.all())

        def body(carry: Any, block: dict[str, Array]) -> tuple[Any, None]:
            s, lost, events = carry
            now, lost, events = self._step(s, lost, events, block["a"], block["b"])
            return (now if always else self.xp.where(block["there"], now, s), lost, events), None

        xs = {"a": a, "b": b} | ({} if always else {"there": self.xp.asarray(there)})
        s, _, events = self.scan(body, (s, 0 * s, events), xs)[0]
        return s, events

    def _step(self, s: Array, lost: Array, events: Events, a: Array, b: Array) -> tuple[Array, Array, Events]:
        """One block: a (L, chain, B, m), b (L, chain, B, n)."""
        f = self.f
        given = a[..., :, None], b[..., None, :]
        a, b = self.xp.broadcast_arrays(step.take(given[0], f.flush_a), step.take(given[1], f.flush_b))
        if self.record.product == "rounded":
            return self._rounded_step(s, lost, events, given, a, b)
        read = step.take(s, f.flush_start)
        events = self._count(events, "underflowed", lambda: step.product_vanished(given[0], given[1], a, b))
        if self.record.alignment is not None:
            now, events = self._aligned(read, events, a, b)
        elif len(a) > 1:
            now, events = self._exact(read, events, a, b)
        else:
            now = step.add_product(a[0], b[0], read, f)
            events = self._count(events, "swamped", lambda: step.product_swamped(a[0], b[0], read, now))
        return now, lost, self._count(events, "overflowed", lambda: _overflowed(a, b, read, now))

    def _rounded_step(self, s: Array, lost: Array, events: Events, given: Any, a: Array, b: Array) -> Any:
        f = self.f
        products = step.rounded_product(a, b, f)
        events = self._count(
            events, "underflowed", lambda: step.product_vanished(given[0], given[1], products, products)
        )
        events = self._count(events, "overflowed", lambda: step.sum_overflowed(a, b, products))
        term, events = self._tree(products, events)
        read = step.take(s, f.flush_start)
        if not self.record.compensated:
            now, events = self._add(read, term, events, f.sum)
            return now, lost, events
        corrected = step.rounded_sum(term, step.negated(lost), f, f.sum)
        now, events = self._add(read, corrected, events, f.sum)
        moved = step.rounded_sum(now, step.negated(read), f, f.sum)
        return now, step.rounded_sum(moved, step.negated(corrected), f, f.sum), events

    def _tree(self, terms: Array, events: Events) -> tuple[Array, Events]:
        """Neighbours of the leading axis added until one is left; an odd last one waits."""
        while len(terms) > 1:
            pairs = len(terms) // 2 * 2
            sums, events = self._add(terms[0:pairs:2], terms[1:pairs:2], events, self.f.sum)
            terms = self.xp.concatenate([sums, terms[pairs:]])
        return terms[0], events

    def _add(self, x: Array, y: Array, events: Events, how: Any) -> tuple[Array, Events]:
        result = step.rounded_sum(x, y, self.f, how)
        events = self._count(events, "swamped", lambda: step.sum_swamped(x, y, result))
        return result, self._count(events, "overflowed", lambda: step.sum_overflowed(x, y, result))

    def _aligned(self, s: Array, events: Events, a: Array, b: Array) -> tuple[Array, Events]:
        """Terms truncated to ``alignment`` bits below the largest exponent, added as integers."""
        f = self.f
        m, e, sign = step.product_term(a, b, f)
        kinds, minus_zero = self._kinds(a, b, s)
        top = self.xp.maximum(e.max(axis=0), f.floor)
        ms, es, ss = step.start_term(s, f)
        if self.record.second_alignment is None:
            top = self.xp.maximum(top, es)
        t, lost = step.aligned(m, e, top, f.left, f.right)
        vanished = (step.nonzero(m) & (1 - step.nonzero(t))) & (1 - step.nonzero(kinds))
        low, high = (part.sum(axis=0, dtype=np.uint32) for part in step.halves(t, sign))
        if self.record.second_alignment is None:
            start, lost_start = step.aligned(ms, es, top, f.start_left, f.start_right)
            vanished_start = step.nonzero(ms) & (1 - step.nonzero(start))
            start_low, start_high = step.halves(start, ss)
            hi, lo = step.joined(low + start_low, high + start_high)
            lost_sum, fraction = 0 * lo, f.alignment
        else:
            hi, lo = step.joined(low, high)
            hi, lo, top, lost_sum, lost_start, vanished_start = step.second_level(hi, lo, top, s, f)
            fraction = f.second_sum
        plain = 1 - step.nonzero(kinds)
        events = self._count(events, "swamped", lambda: vanished)
        events = self._count(events, "swamped", lambda: vanished_start & plain)
        events = self._count(events, "misaligned", lambda: lost & plain)
        events = self._count(events, "misaligned", lambda: (lost_start + lost_sum) * plain)
        return step.close(hi, lo, top, fraction, kinds, minus_zero, f), events

    def _exact(self, s: Array, events: Events, a: Array, b: Array) -> tuple[Array, Events]:
        """All terms of the block and s added exactly."""
        limbs = exact_sums.of_products(a, b)
        alone = exact_sums.is_zero(self.structure, limbs)
        limbs = limbs + exact_sums.started(s)
        kinds, minus_zero = self._kinds(a, b, s)
        u, extra, zero = exact_sums.withdrawn(self.structure, limbs)
        now = step.fused_result(u | ((zero & minus_zero) << 31), extra, kinds, self.f)
        same = step.equal(now, s) & (1 - alone) & (1 - step.nonzero(kinds))
        return now, self._count(events, "swamped", lambda: same)

    def _kinds(self, a: Array, b: Array, s: Array) -> tuple[Array, Array]:
        """Kinds of all terms, joined; and 1 where each of them is -0."""
        kinds = step.product_kind(a, b, self.f)
        joined = step.start_kind(s)
        for bit in (step.NAN, step.POSITIVE_INFINITY, step.NEGATIVE_INFINITY):
            joined = joined | (kinds & bit).max(axis=0)
        minus = ((a ^ b) >> 31) & (1 - (step.nonzero(a & 0x7FFFFFFF) & step.nonzero(b & 0x7FFFFFFF)))
        return joined, minus.min(axis=0) & step.equal(s, MINUS_ZERO)

    def _count(self, events: Events, name: str, happened: Any) -> Events:
        """Events with the ones of the array that ``happened()`` returns, (..., B, m, n), added by row."""
        if not self.counting:
            return events
        word = happened()
        axes = (*range(word.ndim - 3), word.ndim - 1)
        count = getattr(events, name) + word.sum(axis=axes, dtype=np.int32)
        return events._replace(**{name: count})


def _overflowed(a: Array, b: Array, s: Array, result: Array) -> Array:
    return (step.is_finite(a) & step.is_finite(b)).min(axis=0) & step.is_finite(s) & step.is_infinite(result)
