"""``quantization_error``: the error of a quantized product, split exactly into what each step contributes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from precision.backends import choose_backend, is_concrete
from precision.block_formats import BlockFormat
from precision.block_quantizers import BlockArray
from precision.format import Format
from precision.formats import FP16, parse_format
from precision.quantization.array import QArray
from precision.quantization.expansions import pieces, product
from precision.quantization.operand_error import Codes, OperandError, operand_error
from precision.quantization.product_error import ProductError, Source
from precision.quantization.products import factors, quantized_matmul
from precision.quantization.scheme import MatmulScheme
from precision.quantization.schemes import parse_scheme
from precision.rounding import as_float32


def quantization_error(
    x: Any,
    w: Any,
    *,
    scheme: str | MatmulScheme = "int8_vectorwise",
    output: str | Format = FP16,
    quantized_x: QArray | None = None,
    quantized_w: QArray | None = None,
    rows: int | Sequence[int] | np.ndarray | None = None,
    backend: str | None = None,
) -> ProductError:
    """E = y - x w of y = quantized_matmul(x, w, scheme=scheme, output=output), in six parts (``ProductError``).

        x^ = s (q - z), exact, not rounded to float32;  where floats are multiplied, those
        clipping  dx_c = clamp(x, s (least - z), s (largest - z)) - x where q is the least or the largest code, else 0
        rounding  dx_r = x^ - x - dx_c, which has also what a scale of 0 loses, and casts to ``scheme.working``

    Scales that are an absmax count times RN32(1 / span), as ``dequantize`` takes them.
    ``quantized_x``, ``quantized_w``: codes that were made otherwise, within limits say; by default the scheme's own.
    ``rows``: analyse these rows of x, its leading axes flattened, or so many, evenly spaced; the others still take
    part in the choice of scales.
    Shapes: x (..., m, k), w (k, n).  Arrays of the record are NumPy's, (rows, n).
    Domain: finite float32; no bits of x^ or w^ below 2^-149 (only absmax scales under 2^-98 have such); y finite in
    ``output``.  k up to 33,286, or as far as the pieces of the operands fit the 133,144 that ``exact`` takes.
    Exactness: every value is rounded once, bit-identical on NumPy, Numba and JAX; see ``ProductError``.
    Cost: for int8_vectorwise nine exact products of length k, of which output rounding takes four.
    Errors: ValueError for what the domain leaves out, for block formats, and as ``quantized_matmul``; TypeError for
    traced arrays.
    """
    chosen, fmt = parse_scheme(scheme), parse_format(output)
    module = choose_backend(x, w, backend=backend)
    x, w = (_operand(module, operand, name) for name, operand in (("x", x), ("w", w)))
    one, other = (given if q is None else q for given, q in ((x, quantized_x), (w, quantized_w)))
    _refuse_blocks(chosen, one, other)
    y = _flat(np.asarray(quantized_matmul(one, other, scheme=chosen, output=fmt, backend=module.name)))
    chosen_rows = _sample(rows, y.shape[0])
    y = y[chosen_rows]
    if not np.isfinite(y).all():
        raise ValueError(
            f"the product under {chosen.name} in {fmt.name} holds infinity or NaN, and so would its error; name a "
            "wider output, or a scheme with wider sums"
        )
    left, right = _operand_errors(module, chosen, (x, w), (one, other), chosen_rows)
    source = Source(x, w if quantized_w is None else quantized_w, quantized_x is not None, y, module.name)
    return _split(left, right, source, scheme=chosen, output=fmt, rows=chosen_rows)


def _operand(module: Any, x: Any, name: str) -> Any:
    if not is_concrete(x):
        raise TypeError(f"{name} is traced; quantization_error looks at values, so call it outside of jit")
    x = as_float32(module, x)
    wrong = np.argwhere(~np.isfinite(np.asarray(x)))
    if len(wrong):
        where = list(map(int, wrong[0]))
        raise ValueError(f"{name}{where} is {np.asarray(x)[tuple(where)]}, which has no error; mend it first")
    return x


def _refuse_blocks(scheme: MatmulScheme, *operands: Any) -> None:
    if any(isinstance(one, BlockFormat | BlockArray) for one in (scheme.x, scheme.w, *operands)):
        raise ValueError(f"scheme {scheme.name} has elements that are no integer codes; name an integer scheme")


def _sample(rows: Any, count: int) -> np.ndarray:
    """Indices of the rows to analyse."""
    if rows is None:
        return np.arange(count)
    if isinstance(rows, int | np.integer):
        if not 0 < rows <= count:
            raise ValueError(f"{rows} rows of {count}; ask for 1 to {count}, or for indices")
        return np.arange(rows) * count // int(rows)
    chosen = np.asarray(rows)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or ((chosen < 0) | (chosen >= count)).any():
        raise ValueError(f"rows {rows!r} are no indices of {count} rows; pass a number or a list of indices")
    return chosen


def _operand_errors(
    module: Any, scheme: MatmulScheme, originals: tuple[Any, Any], given: tuple[Any, Any], rows: np.ndarray
) -> tuple[OperandError, OperandError]:
    """Of the rows of x and of w."""
    of = factors(module, scheme, *given)
    x, w = (np.asarray(original) for original in originals)
    qx, qw = of.codes
    floats: Any = (None, None) if of.floats is None else tuple(map(np.asarray, of.floats))
    columns: Any = True if of.columns is None else np.asarray(of.columns)
    through = of.columns is None or scheme.outlier_weights == "dequantized"
    left = operand_error(
        _flat(x)[rows],
        codes=None if qx is None else Codes(qx, rows),
        cast=None if floats[0] is None else _flat(floats[0])[rows],
        of_cast=columns,
        through_codes=of.columns is None,
    )
    right = operand_error(
        w,
        codes=None if qw is None else Codes(qw),
        cast=floats[1],
        of_cast=columns if columns is True else columns[:, None],
        through_codes=through,
    )
    return left, right


def _flat(x: np.ndarray) -> np.ndarray:
    """(..., m, k) -> (M, k)."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _split(left: OperandError, right: OperandError, source: Source, **facts: Any) -> ProductError:
    x, w, y = left.original, right.original, source.y

    def times(a: Any, b: Any, start: np.ndarray | None = None) -> np.ndarray:
        return product(a, b, start, y.shape, source.backend)

    def cut(terms: Any) -> Any:
        return pieces(terms, f"an operand under {facts['scheme']}")

    parts = {
        "x_rounding": times(cut(left.rounding), [w]),
        "x_clipping": times(cut(left.clipping), [w]),
        "w_rounding": times([x], cut(right.rounding)),
        "w_clipping": times([x], cut(right.clipping)),
        "cross": times(cut(left.total), cut(right.total)),
        "output_rounding": times([-piece for piece in cut(left.stands_for)], cut(right.stands_for), y),
    }
    return ProductError(
        parts=MappingProxyType(parts), product=times([x], [w]), total=times([-x], [w], y), x=left, w=right,
        source=source, **facts,
    )  # fmt: skip
