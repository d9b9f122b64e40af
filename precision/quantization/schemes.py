"""Ways of quantizing by name: ``SCHEMES`` and ``parse_scheme``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from precision.block_formats import BLOCK_FORMATS, BlockFormat
from precision.quantization.scheme import VECTOR, MatmulScheme, QScheme
from precision.quantization.variants import VARIANTS

TENSOR = QScheme(name="int8_tensor", granularity="tensor")
_LLM_THRESHOLD = 6.0

_OWN = (
    MatmulScheme(
        name="int8_vectorwise", x=VECTOR, w=VECTOR, description="a scale for a row of x, a column of w; INT32"
    ),
    MatmulScheme(name="int8_tensorwise", x=TENSOR, w=TENSOR, description="one scale for x, one for w; INT32"),
    MatmulScheme(name="int8_rowwise", x=VECTOR, w=TENSOR, description="a scale for a row of x, one for w; INT32"),
    MatmulScheme(
        name="int8_affine",
        x=QScheme(name="uint8_tensor", symmetric=False, granularity="tensor"),
        w=VECTOR,
        description="x with a zero point, one scale; a scale for each column of w; INT32 sums",
    ),
    MatmulScheme(
        name="llm_int8",
        x=VECTOR,
        w=VECTOR,
        threshold=_LLM_THRESHOLD,
        description="int8_vectorwise, columns of x that hold a magnitude of 6 or more in fp16",
    ),
    MatmulScheme(
        name="int8_weight_only", x=None, w=VECTOR, integer=False, description="a scale for a column of w; x in fp16"
    ),
    MatmulScheme(
        name="int4_columnwise_weight_only",
        x=None,
        w=QScheme(name="int4_vector", bits=4),
        integer=False,
        description="4 bits, a scale for each column of w; x in fp16",
    ),
    MatmulScheme(
        name="int8_kv",
        x=None,
        w=QScheme(name="int8_kv", scale_format="fp16", quotient="inverse"),
        integer=False,
        description="keys and values of a cache, an fp16 scale for each token and head",
    ),
)  # fmt: skip


def _blocks(fmt: BlockFormat) -> MatmulScheme:
    return MatmulScheme(
        name=fmt.name,
        x=fmt,
        w=fmt,
        integer=False,
        working="fp32",
        description=f"{fmt.element} elements, {fmt.scale} scale for {fmt.block_size} along k; float32 sums",
    )


SCHEMES: dict[str, MatmulScheme] = {
    scheme.name: scheme for scheme in (*_OWN, *map(_blocks, BLOCK_FORMATS.values()), *VARIANTS)
}
_GROUPED = re.compile(r"int([248])_group([1-9]\d*)(_vectorwise)?")


def parse_scheme(name: str | MatmulScheme) -> MatmulScheme:
    """The scheme of that name, in any case, or itself; ``int4_group<g>``, ``int8_group<g>`` for every g.

    ``int<b>_group<g>`` is weight-only: b bits, a scale for every g elements of a column of w.  With ``_vectorwise``
    x is quantized too, to INT8 by rows, and sums are INT32 within a group.
    Errors: ValueError, naming the known ones, for any other name.
    """
    if isinstance(name, MatmulScheme):
        return name
    text = name.lower() if isinstance(name, str) else ""
    if text in SCHEMES:
        return SCHEMES[text]
    if found := _GROUPED.fullmatch(text):
        return _grouped(text, int(found[1]), int(found[2]), found[3] is not None)
    raise ValueError(f"unknown quantization scheme {name!r}; known schemes: {', '.join(known_names())}")


def known_names() -> Iterator[str]:
    yield from SCHEMES
    yield from ("int4_group<g>", "int8_group<g>", "int4_group<g>_vectorwise")


def _grouped(name: str, bits: int, group: int, vectorwise: bool) -> MatmulScheme:
    w = QScheme(name=f"int{bits}_group{group}", bits=bits, granularity="group", group=group)
    plain = MatmulScheme(name=name, x=None, w=w, integer=False, description=f"{bits} bits, a scale for {group} of k")
    return replace(plain, x=VECTOR, integer=True) if vectorwise else plain
