"""The operations of one site in one pass: those of its inner arithmetic, and one rounding to its output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from precision.accumulator import Accumulator
from precision.accumulators import parse_accumulator
from precision.backends.numpy_ import round_to
from precision.formats import FP32, Format, parse_format
from precision.quantization.products import quantized_product
from precision.rounding_modes import NEAREST_EVEN, Rounding
from precision.rounding_words import NOT_ROUNDED, rounding_words
from precision.scaled_products import block_scaled_product, scaled_product
from precision.tables import table
from qsim.delayed_scaling import delayed_product
from qsim.site_policy import GEMM_SITES, Pass, SitePolicy

if TYPE_CHECKING:
    from qsim.sites import Calculator

Array = Any
_ROOT_HALF = np.float32(0.5**0.5)
_ROOT_TWO_PI_INVERSE = np.float32((2 * np.pi) ** -0.5)


Composed = Callable[..., tuple[Array, ...]]


class Deferred(NamedTuple):
    """Values that a kernel is to round first: the words of that, and the rounding."""

    values: Array
    words: tuple[int, ...] = NOT_ROUNDED
    finish: Callable[[Array], Array] = lambda x: x


def patterns(*values: float) -> tuple[int, ...]:
    """Constants as words of kernels, each rounded to float32."""
    return tuple(int(np.float32(value).view(np.uint32)) for value in values)


class Site:
    """The operations of one site in one pass.

    Inner arithmetic is float32 that flushes subnormals; where the policy's ``inner`` is narrower, every result is
    rounded to it.
    """

    def __init__(self, calculator: Calculator, site: str, direction: Pass, policy: SitePolicy) -> None:
        self._calculator, self._key, self.policy = calculator, f"{site}.{direction}", policy
        self.direction, self._place = direction, (site, direction)
        self._backend = calculator.backend
        self.output_format = parse_format(policy.output)
        self._how = Rounding(mode=policy.rounding, subnormals=policy.subnormals)
        self._inputs = parse_format(policy.inputs)
        first, second = policy.operands(direction)
        self._operands = parse_format(first), parse_format(second)
        self._inner, self._sums = parse_format(policy.inner), parse_format(policy.sums)
        self._scheme = policy.scheme(direction)
        formats = calculator.policy.formats if site in GEMM_SITES else frozenset()
        self._casts = [bool(formats - {name}) for name in (first, second)]
        self._narrows = bool(formats - {policy.output})
        self._by_table = self._inputs.bits == 16 and not calculator.hardware  # GELU and its like

    def _round_inner(self, x: Array) -> Array:
        return x if self._inner is FP32 else self._backend.round_to(x, self._inner)

    def add(self, x: Array, y: Array) -> Array:
        return self._round_inner(self._backend.add(x, y))

    def subtract(self, x: Array, y: Array) -> Array:
        return self._round_inner(self._backend.subtract(x, y))

    def multiply(self, x: Array, y: Array) -> Array:
        return self._round_inner(self._backend.multiply(x, y))

    def divide(self, x: Array, y: Array) -> Array:
        return self._round_inner(self._backend.divide(x, y))

    def square_root(self, x: Array) -> Array:
        return self._round_inner(self._backend.square_root(x))

    def exp(self, x: Array) -> Array:
        return self._transcendental("exp", x)

    def log(self, x: Array) -> Array:
        return self._transcendental("log", x)

    def erf(self, x: Array) -> Array:
        return self._transcendental("erf", x)

    def tanh(self, x: Array) -> Array:
        return self._transcendental("tanh", x)

    def _transcendental(self, function: str, x: Array) -> Array:
        """Of an inner format of 16 bits, whose values the arguments are, by table: one rounding."""
        if self._inner.bits == 16 and not self._calculator.hardware:
            return self._backend.lookup(table(function, self._inner.name), x, self._inner)
        return self._round_inner(getattr(self._backend, function)(x))

    def sum(self, x: Array, axis: int = -1) -> Array:
        """Tree over neighbours: each addition rounded to ``sums``, the last one to the inner format."""
        if self._sums is FP32:
            return self._round_inner(self._backend.tree_sum(x, axis))
        xp = self._calculator.xp
        x = self._backend.round_to(xp.moveaxis(x, axis, -1), self._sums)
        width = x.shape[-1]
        padding = xp.full((*x.shape[:-1], (1 << max(width - 1, 0).bit_length()) - width), -0.0, np.float32)
        x = xp.concatenate([x, padding], axis=-1)  # -0 changes no sum
        while x.shape[-1] > 1:
            pairs = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
            x = self._backend.round_to(self._backend.add(pairs[..., 0], pairs[..., 1]), self._sums)
        return self._round_inner(x[..., 0])

    def max(self, x: Array, mask: Array | None = None) -> Array:
        return self._backend.row_max(x, mask)

    def scalar(self, value: float) -> Array:
        """A constant, rounded to float32 and to the inner format."""
        return self._calculator.xp.asarray(round_to(np.asarray(value, np.float32), self._inner))

    def scatter_add_rows(self, indices: Array, rows: Array, size: int) -> Array:
        """Row after row in float32, one rounding to the inner format at the end."""
        return self._round_inner(self._backend.scatter_add_rows(indices, rows, size))

    def narrowed(self, x: Array) -> Array:
        """A bias, or the rows of a bias gradient, as a value of the output's format, where it may come as another."""
        return self._backend.round_to(x, self.output_format) if self._narrows else x

    def as_operand(self, x: Array, which: int) -> Array:
        """The first or second operand of a product as values of the policy's format for it."""
        return self._backend.round_to(x, self._operands[which]) if self._casts[which] else x

    def matmul(self, a: Array, b: Array, key: Array | None = None) -> Array:
        """(B, m, k) x (B, k, n) or (m, k) x (k, n), summed by the site's accumulator, in its own format.

        ``key``: two words, where the site rounds a gradient stochastically; element i of it, row-major over the whole
        operand, takes the bits of index i, counted from the first of the batch.
        """
        if a.ndim == 2:
            return self.matmul(a[None], b[None], key)[0]
        if self.policy.scaling == "none":
            a, b = self.as_operand(a, 0), self.as_operand(b, 1)
        if self._scheme is not None:
            gradient = a if self.direction == "dgrad" else b
            by_column = self.direction == "wgrad"
            counter = 0 if key is None else self._calculator.indices(gradient.shape, own_columns=by_column)
            return quantized_product(self._backend, a, b, self._scheme, key, counter)
        accumulator = parse_accumulator(self.policy.accumulator or "")
        if self.policy.scaling == "tensor":
            of_all = self._calculator.shards.largest
            return scaled_product(self._backend, a, b, self._product(accumulator), self._operands, of_all)
        if self.policy.scaling == "delayed":
            return delayed_product(self._calculator, self._place, a, b, self._product(accumulator), self._operands)
        if self.policy.scaling == "blocks":
            by_weights = self.direction != "wgrad"
            product = self._product(accumulator)
            return block_scaled_product(
                self._backend, a, b, product, self._operands, self.policy.block, square=by_weights
            )
        return self._product(accumulator)(a, b)

    def _product(self, accumulator: Accumulator) -> Any:
        """A product by the accumulator; ``exact`` rounds once, to the output."""

        def product(a: Array, b: Array) -> Array:
            if accumulator.summation == "exact" and self._how == NEAREST_EVEN and self.policy.scaling == "none":
                start = self._calculator.xp.zeros((*a.shape[:2], b.shape[2]), np.float32)
                return self._backend.round_exact(*self._backend.exact_matmul(a, b, start), self.output_format)
            return self._backend.matmul(a, b, None, accumulator, self._operands, self._calculator.proofs)

        return product

    def output(self, x: Array) -> Array:
        """x rounded once to the site's format, and recorded."""
        x = x if self._calculator.recorder is None else self._backend.computed_once(x)
        return self._recorded(x, self._planted(self._rounded(x)))

    def own_output(self, x: Array) -> Array:
        """``output`` of what ``matmul`` has given and nobody reads again: rounded where it stands, and left alone
        where it is of the output's format already."""
        if self._calculator.watches_outputs or not isinstance(x, np.ndarray):
            return self.output(x)
        return x if self._sums_are_outputs else self._rounded(x, out=x)

    @property
    def _sums_are_outputs(self) -> bool:
        """Chains give float32 whose NaNs are canonical."""
        plain = self._scheme is None and self.policy.scaling == "none" and self.policy.accumulator is not None
        float32 = self._how == NEAREST_EVEN and self.output_format is FP32
        return plain and float32 and parse_accumulator(self.policy.accumulator or "").is_chain

    def _rounded(self, x: Array, **out: Array) -> Array:
        if self._how == NEAREST_EVEN:
            return self._backend.round_to(x, self.output_format, **out)
        random = self._calculator.stream(self._key, x.shape) if self._how.stochastic else None
        return self._backend.round_to(x, self.output_format, self._how, random, **out)

    def _planted(self, rounded: Array) -> Array:
        """With the faults of this place."""
        return self._calculator.planted(self._key, rounded, self.output_format)

    def _recorded(self, x: Array, rounded: Array) -> Array:
        recorder = self._calculator.recorder
        if recorder is not None:
            recorder.record(self._backend, self._key, x, rounded, self.output_format)
        return rounded

    def deferred(self, x: Array, prepare: Callable[[Array], Array] = lambda x: x) -> Deferred:
        """prepare(x), to be rounded to the output by the kernel that it goes to next; rounded here where kernels know
        no such rounding, and where the calculator watches outputs."""
        words = self._output_words
        if words is None or self._calculator.watches_outputs:
            return Deferred(self.output(prepare(x)))
        return Deferred(x, words, lambda x: self._rounded(prepare(x)))

    @property
    def _output_words(self) -> tuple[int, ...] | None:
        return rounding_words(self._how, self.output_format)

    def fused(
        self,
        name: str,
        composed: Composed,
        *operands: Array,
        words: tuple[int, ...] = (),
        sizes: Mapping[str, int] | None = None,
    ) -> tuple[Array, ...]:
        """composed(*operands), the first result rounded to the output; by the kernel of that name where there is one.

        words: of the kernel, before those of that rounding.  ``composed`` is what defines the results.
        """
        own = self._output_words
        if own is None or self._calculator.watches_outputs:
            first, *rest = self.unrounded(name, composed, *operands, words=words, sizes=sizes)
            return self.output(first), *rest

        def whole(*operands: Array) -> tuple[Array, ...]:
            first, *rest = composed(*operands)
            return self._rounded(first), *rest

        return self._by_kernel(name, whole, operands, (*words, *own), sizes)

    def unrounded(
        self,
        name: str,
        composed: Composed,
        *operands: Array,
        words: tuple[int, ...] = (),
        sizes: Mapping[str, int] | None = None,
    ) -> tuple[Array, ...]:
        """The same without that rounding."""
        return self._by_kernel(name, composed, operands, (*words, *NOT_ROUNDED), sizes)

    def _by_kernel(
        self,
        name: str,
        composed: Composed,
        operands: tuple[Array, ...],
        words: tuple[int, ...],
        sizes: Mapping[str, int] | None,
    ) -> tuple[Array, ...]:
        """Kernels compute in float32 alone."""
        kernel = self._backend.fused_layer(name) if self._inner is FP32 and self._sums is FP32 else None
        return composed(*operands) if kernel is None else kernel(words, composed, *operands, sizes=sizes)

    def gelu(self, x: Array) -> Array:
        """GELU of values of the input format: correctly rounded by table in 16 bits, else composed."""
        return self.activation("gelu", x, lambda x: self.multiply(x, self._cumulative(x)))

    def activation(
        self, function: str, x: Array, composed: Callable[[Array], Array], words: tuple[int, ...] | None = None
    ) -> Array:
        """A function of ``precision.tables`` of values of the input format, by table in 16 bits, else composed(x).

        words: the constants of its kernel, where it has one.
        """
        if self._by_table:
            return self._tabulated(function, x)
        if words is None:
            return self.output(composed(x))
        flat = self._calculator.flat(x)
        return self.fused(function, lambda x: (composed(x),), flat, words=words)[0].reshape(x.shape)

    def gated(
        self, function: str, x: Array, y: Array, composed: Callable[[Array], Array], words: tuple[int, ...]
    ) -> Array:
        """``activation`` of x, rounded, times y, rounded."""
        own, narrow = self._output_words, self._by_table
        if own is None or self._calculator.watches_outputs or (narrow and self._how != NEAREST_EVEN):
            return self.output(self.multiply(self.activation(function, x, composed, words), y))
        flat = self._calculator.flat(x), self._calculator.flat(y)
        if narrow:
            values = self._calculator.xp.asarray(table(function, self._inputs.name, self.output_format.name))
            (found,) = self.fused(
                "lookup_product",
                lambda x, values, y: (self.multiply(self._backend.lookup(values, x, self._inputs), y),),
                flat[0],
                values,
                flat[1],
                words=_words_of(self._inputs),
            )
        else:
            (found,) = self.fused(
                f"{function}_product",
                lambda x, y: (self.multiply(self._rounded(composed(x)), y),),
                *flat,
                words=(*words, *own),
            )
        return found.reshape(x.shape)

    def gelu_gradient(self, x: Array) -> Array:
        """Derivative of GELU, unrounded where it is composed: Phi(x) + x phi(x)."""
        if self._by_table:
            return self._lookup(table("gelu_gradient", self._inputs.name), x)
        exponent = self.multiply(self.multiply(x, x), self.scalar(-0.5))
        density = self.multiply(self.exp(exponent), _ROOT_TWO_PI_INVERSE)
        return self.add(self._cumulative(x), self.multiply(x, density))

    def _cumulative(self, x: Array) -> Array:
        """Phi(x) = (1 + erf(x / sqrt 2)) / 2."""
        tail = self.add(self.erf(self.multiply(x, _ROOT_HALF)), self.scalar(1))
        return self.multiply(tail, self.scalar(0.5))

    def gelu_backward(self, x: Array, dy: Array) -> Array:
        """dy times the derivative of GELU at x, rounded."""
        if not self._by_table:
            return self.output(self.multiply(dy, self.gelu_gradient(x)))
        values = self._calculator.xp.asarray(table("gelu_gradient", self._inputs.name))

        def composed(x: Array, values: Array, dy: Array) -> tuple[Array]:
            return (self.multiply(dy, self._backend.lookup(values, x, self._inputs)),)

        flat = x.reshape(-1), values, dy.reshape(-1)
        return self.fused("lookup_product", composed, *flat, words=_words_of(self._inputs))[0].reshape(x.shape)

    def _lookup(self, values: Array, x: Array) -> Array:
        """values[code of x]"""
        flat = x.reshape(-1), self._calculator.xp.asarray(values)
        (found,) = self.unrounded(
            "lookup",
            lambda x, values: (self._backend.lookup(values, x, self._inputs),),
            *flat,
            words=_words_of(self._inputs),
        )
        return found.reshape(x.shape)

    def _tabulated(self, function: str, x: Array) -> Array:
        source = self._inputs
        if self._how != NEAREST_EVEN:  # from the value in float32
            return self.output(self._lookup(table(function, source.name, "fp32"), x))
        rounded = self._planted(self._lookup(table(function, source.name, self.output_format.name), x))
        if self._calculator.recorder is None:
            return rounded
        return self._recorded(self._lookup(table(function, source.name, "fp32"), x), rounded)


def _words_of(fmt: Format) -> tuple[int, ...]:
    return tuple(map(int, fmt.constants))


class StageSite(Site):
    """The operations of a stage: float32, each of its results rounded as the stage says.  Nothing is recorded."""

    def output(self, x: Array) -> Array:
        return x if self.is_float32 else self._rounded(x)

    @property
    def is_float32(self) -> bool:
        """Whether its results are left as float32 arithmetic made them."""
        return self.output_format is FP32 and self._how == NEAREST_EVEN
