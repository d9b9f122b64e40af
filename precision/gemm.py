"""``matmul`` under a named accumulator: check, then call a back end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from precision.accumulator import Accumulator
from precision.accumulators import parse_accumulator
from precision.backends import choose_backend, is_concrete
from precision.exact_products import LARGEST_K
from precision.formats import FP16, FP32, INT8, Format, parse_format
from precision.gemm_counters import EVENTS_OF_A_PRODUCT, LARGEST_COUNT, GemmCounters
from precision.representation import check_representable
from precision.rounding import as_float32, check_out, stream
from precision.rounding_modes import Mode, Rounding

FormatLike = str | Format
Inputs = FormatLike | tuple[FormatLike, FormatLike]
LARGEST_INTEGER_K = 131_071  # 128^2 k < 2^31
_NO_DERIVATIVE = "matmul has no derivative; make_dot_general takes the formats of both backward products"


def matmul(
    a: Any,
    b: Any,
    *,
    c: Any = None,
    inputs: Inputs | None = None,
    transpose_a: bool = False,
    transpose_b: bool = False,
    accumulator: str | Accumulator = "fp32_sequential",
    output: FormatLike | None = None,
    rounding: Mode = "nearest_even",
    key: Any = None,
    counter: Any = 0,
    counters: bool = False,
    check: bool = False,
    out: np.ndarray | None = None,
    backend: str | None = None,
) -> Any:
    """c + a b, summed exactly as the accumulator says, then rounded once to ``output``.

        out[..., i, j] = round(s_K),  s_0 = c[..., i, j] or +0,  s_(k+1) = step(s_k, a[..., i, k], b[..., k, j])

    and the like for accumulators of another order (see ``Accumulator``).
    Shapes: (..., m, k) x (..., k, n) -> (..., m, n); leading axes broadcast; ``transpose_a``: a is (..., k, m);
    ``transpose_b``: b is (..., n, k).  Any size, k = 0 included (then c, or +0).  Any strides.
    Domain: float32 carriers, or narrower floats, whose values are representable in ``inputs`` (one format, or one for
    each operand; FP16 by default), and those of c in the accumulator's format; with ``check=True`` that is verified.
    Integer formats count as inputs wherever the accumulator takes any.  ``int32`` takes int8 arrays, or carriers of
    whole numbers, and c in int32, and gives int32; its inputs are INT8 by default.
    Exactness: bit-identical on every back end, subnormals kept unless the accumulator flushes them; ``native``
    promises no bits.  ``output=None``: the accumulator's own format, NaN as the accumulator has it; else one
    rounding, in the mode ``rounding`` (stochastic: ``key`` and ``counter`` as in ``round_to``), NaN 0x7FC00000.
    ``exact`` rounds its exact sum that once, to FP32 where no output is named.
    ``counters=True``: returns (product, ``GemmCounters``), on the general path, which is slower.
    ``out``: a NumPy array of the result's shape and type to write to.
    Errors: ValueError for shapes that do not match, unknown names, formats that the accumulator does not multiply, k
    beyond what INT32 holds (131,071), inputs that are not representable (``check``), counters of ``native``;
    TypeError for dtypes that no carrier holds, and for a JAX derivative, whose products have formats of their own:
    ``make_dot_general`` takes them.
    """
    record = parse_accumulator(accumulator)
    formats = _pair(record, inputs)
    module = choose_backend(a, b, c, backend=backend)
    whole = record.summation == "integer"
    a = _operand(module, a, formats[0], "a", transpose_a, check, whole)
    b = _operand(module, b, formats[1], "b", transpose_b, check, whole)
    batch, m, n = _shape(a, b)
    if c is not None:
        c = _start(module, c, record, (*batch, m, n), check)
        c = _flat(module, c, batch)
    _refuse(record, formats, a.shape[-1])
    if counters:
        _refuse_counting(module, record, int(np.prod(batch)) * m, n * a.shape[-1])
    how = Rounding(mode=rounding)
    if output is not None and record.summation == "integer":
        raise ValueError(
            f"accumulator {record.name} gives int32 and no {output}; convert it, or use quantized_matmul"
        )
    product = _Product(
        module=module, record=record, formats=formats, output=None if output is None else parse_format(output),
        how=how, random=stream(how, key, counter), shape=(*batch, m, n),
    )  # fmt: skip
    result, counted = product(_flat(module, a, batch), _flat(module, b, batch), c, counters)
    if out is not None:
        check_out(out, result, result.dtype)
        np.copyto(out, result)
        result = out
    return (result, counted) if counters else result


@dataclass(frozen=True, kw_only=True)
class _Product:
    """A product whose arguments are checked: (B, m, k) x (B, k, n) to the shape wanted."""

    module: Any
    record: Accumulator
    formats: tuple[Format, Format]
    output: Format | None
    how: Rounding
    random: Any
    shape: tuple[int, ...]

    def __call__(self, a: Any, b: Any, c: Any, counting: bool) -> tuple[Any, GemmCounters | None]:
        run = {"integer": self._integer, "exact": self._exact}.get(self.record.summation, self._ordered)
        result, counts = run(a, b, c, counting)
        if not counting:
            return result, None
        products = int(np.prod(self.shape)) * a.shape[2]
        return result, GemmCounters(products=products, **{name: _total(count) for name, count in counts.items()})

    def _ordered(self, a: Any, b: Any, c: Any, counting: bool) -> tuple[Any, dict[str, Any]]:
        counts: dict[str, Any] = {}
        if counting:
            c = self.module.array_module.zeros((*a.shape[:2], b.shape[2]), np.float32) if c is None else c
            total, events = self.module.counted_matmul(a, b, c, self.record, self.formats)
            counts = events._asdict()
        else:
            total = self.module.matmul(a, b, c, self.record, self.formats)
        total = total.reshape(self.shape)
        if self.output is None:
            return total, counts
        result = self.module.round_to(total, self.output, self.how, self.random)
        if counting:
            counts["inexact"] = self._changed(total, result, 0)
        return result, counts

    def _exact(self, a: Any, b: Any, c: Any, counting: bool) -> tuple[Any, dict[str, Any]]:
        xp = self.module.array_module
        c = xp.zeros((*a.shape[:2], b.shape[2]), np.float32) if c is None else c
        u, extra = (x.reshape(self.shape) for x in self.module.exact_matmul(a, b, c))
        result = self.module.round_exact(u, extra, self.output or FP32, self.how, self.random)
        if not counting:
            return result, {}
        finite = ((u & 0x7FFFFFFF) < 0x7F800000) | (extra != 0)
        overflowed = finite & ((self.module.to_bits(result) & 0x7FFFFFFF) == 0x7F800000)
        changed = self._changed(self.module.from_bits(u), result, extra)
        return result, {"overflowed": overflowed, "inexact": changed}

    def _integer(self, a: Any, b: Any, c: Any, counting: bool) -> tuple[Any, dict[str, Any]]:
        total = self.module.integer_matmul(a, b, c).reshape(self.shape)
        if not counting:
            return total, {}
        if c is None:
            return total, {}
        part, c = total - c.reshape(self.shape), c.reshape(self.shape)
        return total, {"overflowed": ((part ^ total) & (c ^ total)) < 0}

    def _changed(self, exact: Any, rounded: Any, extra: Any) -> Any:
        """Where rounding changed a value; ``extra``: what the pattern of ``exact`` has not."""
        u, v = self.module.to_bits(exact), self.module.to_bits(rounded)
        numbers, nonzero = (u & 0x7FFFFFFF) <= 0x7F800000, ((u | v) & 0x7FFFFFFF) != 0
        return (((u != v) & nonzero) | (extra != 0)) & numbers


def _total(count: Any) -> Any:
    """A Python integer where the values are there to see."""
    return int(count.sum()) if is_concrete(count) else count.sum()


def _pair(record: Accumulator, inputs: Inputs | None) -> tuple[Format, Format]:
    default = INT8 if record.summation == "integer" else FP16
    both = inputs if isinstance(inputs, tuple) else (inputs, inputs)
    pair = tuple(default if one is None else parse_format(one) for one in both)
    for fmt in pair:
        if not record.takes(fmt):
            known = " and ".join(record.inputs)
            raise ValueError(f"accumulator {record.name} multiplies {known}, not {fmt.name}; name one of those")
        if fmt.bits > FP32.bits:
            raise ValueError(f"matmul takes inputs of at most 32 bits, not {fmt.name}; round them to fp32 first")
    return pair[0], pair[1]


def _refuse(record: Accumulator, formats: tuple[Format, Format], k: int) -> None:
    name, bits = record.name, sum(fmt.precision for fmt in formats)
    if record.summation == "ordered" and record.alignment is not None and bits > 24:
        raise ValueError(
            f"accumulator {name} aligns products of at most 24 bits, and {formats[0].name} x {formats[1].name} has "
            f"{bits}; round the operands to fp16 or bf16"
        )
    if record.block_for(formats[0]) != record.block_for(formats[1]):
        raise ValueError(
            f"accumulator {name} takes blocks of other lengths for {formats[0].name} than for {formats[1].name}; "
            "pass operands of one format"
        )
    if record.summation == "exact" and k > LARGEST_K:
        raise ValueError(f"k = {k} could overflow the INT32 sums inside; at most {LARGEST_K} is exact, so split k")
    if record.summation == "integer" and k > LARGEST_INTEGER_K:
        raise ValueError(f"k = {k} could overflow INT32; at most {LARGEST_INTEGER_K} is exact, so split k")


def _refuse_counting(module: Any, record: Accumulator, rows: int, products: int) -> None:
    if record.summation == "native":
        raise ValueError("accumulator native cannot count what its library does inside; name another accumulator")
    most = EVENTS_OF_A_PRODUCT * products * (rows if module.name == "jax" else 1)
    if most > LARGEST_COUNT:
        raise ValueError(
            f"{rows} rows of {products} products are more than 32-bit counters may hold; count parts of the product "
            "and add their counters"
        )


def _start(module: Any, c: Any, record: Accumulator, shape: tuple[int, ...], check: bool) -> Any:
    if record.summation == "integer":
        if getattr(c, "dtype", None) != np.int32:
            raise TypeError(f"c is {getattr(c, 'dtype', type(c))}; under {record.name} it is an int32 array")
        c = module.array_module.asarray(c)
    else:
        c = as_float32(module, c)
    if tuple(c.shape) != shape:
        raise ValueError(f"c must have the shape of the product, {shape}, not {tuple(c.shape)}")
    if check and record.summation != "integer":
        check_representable(module, c, record.sum, "operand c")
    return c


def _operand(module: Any, x: Any, fmt: Format, name: str, transpose: bool, check: bool, whole: bool) -> Any:
    """x as a float32 carrier, or, where the sum is of integers (``whole``), as int8."""
    if not (whole and getattr(x, "dtype", None) == np.int8):
        x = module.without_derivative(as_float32(module, x), _NO_DERIVATIVE)
    if x.ndim < 2:
        raise ValueError(f"operand {name} needs at least two axes, its shape is {tuple(x.shape)}")
    carried = x.dtype == np.float32
    if (check or whole) and is_concrete(x) and (carried or fmt != INT8):
        check_representable(module, as_float32(module, x), fmt, f"operand {name}")
    if whole:
        x = module.encode(x, fmt) if carried else module.array_module.asarray(x)
    return module.array_module.swapaxes(x, -1, -2) if transpose else x


def _shape(a: Any, b: Any) -> tuple[tuple[int, ...], int, int]:
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(
            f"inner axes differ: a is {tuple(a.shape)} and b is {tuple(b.shape)}, both after transposition; "
            f"k is {a.shape[-1]} in a and {b.shape[-2]} in b"
        )
    try:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ValueError(f"leading axes {a.shape[:-2]} of a and {b.shape[:-2]} of b do not broadcast") from None
    return batch, a.shape[-2], b.shape[-1]


def _flat(module: Any, x: Any, batch: tuple[int, ...]) -> Any:
    """(..., p, q) -> (B, p, q)."""
    x = module.array_module.broadcast_to(x, (*batch, *x.shape[-2:]))
    return x.reshape((int(np.prod(batch)), *x.shape[-2:]))
