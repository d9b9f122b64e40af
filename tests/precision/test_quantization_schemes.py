"""Records of schemes: what contradicts itself is refused in one sentence, relatives keep their laws."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import precision as pr
from precision.quantization.scheme import VECTOR, Clipping, MatmulScheme, QScheme

MSE = Clipping(method="mse")


def refuses(message: str) -> Any:
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


@pytest.mark.parametrize(("facts", "message"), [
    ({"method": "median"}, "clipping 'median' is not offered; choose one of absmax, percentile, mse"),
    ({"percentile": 0.0}, "percentile 0.0 is outside 0 < percentile <= 100; choose one inside"),
    ({"percentile": 100.5}, "percentile 100.5 is outside 0 < percentile <= 100; choose one inside"),
    ({"percentile": float("nan")}, "percentile nan is outside 0 < percentile <= 100; choose one inside"),
    ({"candidates": 1}, "1 candidates are outside 2 to 1024; choose a number inside"),
    ({"candidates": 1025}, "1025 candidates are outside 2 to 1024; choose a number inside"),
])  # fmt: skip
def test_clipping(facts: dict[str, Any], message: str) -> None:
    with refuses(message):
        Clipping(**facts)


@pytest.mark.parametrize(("facts", "message"), [
    ({"granularity": "tile"},
     "granularity 'tile' is not offered; choose one of tensor, row, column, vector, group, block"),
    ({"scale_step": "half"}, "scale_step 'half' is not offered; choose one of reciprocal, division, absmax"),
    ({"quotient": "x"}, "quotient 'x' is not offered; choose one of bound, unit, approximate, inverse, scale"),
    ({"tiny": "two"}, "tiny 'two' is not offered; choose one of zero, one, absmax_one, least_absmax, least_scale"),
    *(({"bits": bits}, f"codes of {bits} bits; 2 to 8 are offered") for bits in (-1, 0, 1, 9)),
    ({"granularity": "group"}, "group None; a whole number of elements, at least 1, shares a scale"),
    ({"granularity": "block", "group": 0}, "group 0; a whole number of elements, at least 1, shares a scale"),
    ({"granularity": "group", "group": 2.5}, "group 2.5; a whole number of elements, at least 1, shares a scale"),
    ({"group": 4}, "vector takes no group; leave out 4"),
    ({"lowest": -129}, "lowest code -129 outside 8 bits"),
    ({"lowest": 0}, "lowest code 0 outside 8 bits"),
    ({"bound": 0.0}, "bound 0.0 outside 0 < bound < 256"),
    ({"bound": float("nan")}, "bound nan outside 0 < bound < 256"),
    ({"symmetric": False, "bound": 127.0}, "affine codes have no other bound"),
    ({"symmetric": False, "lowest": -127}, "affine codes have no other bound"),
    ({"symmetric": False, "quotient": "scale"}, "affine codes are x (levels / range); leave quotient"),
    ({"symmetric": False, "scale_step": "division"}, "affine scales are ranges; leave scale_step"),
    ({"symmetric": False, "clamps": False}, "affine codes clamp; leave clamps"),
    ({"symmetric": False, "tiny": "one"}, "affine tiles below the threshold are zero; leave tiny"),
    ({"symmetric": False, "clipping": MSE}, "clipping is for symmetric codes"),
    ({"clipping": MSE, "arithmetic": "fp16"}, "mse clipping is for float32 arithmetic and scales, and tiny 'zero'"),
    ({"clipping": MSE, "scale_step": "absmax"}, "mse clipping is for scales that divide by the bound"),
    ({"clipping": MSE, "quotient": "approximate", "source": "fp16"},
     "mse clipping is for scales that divide by the bound"),
    ({"scale_format": "e4m3", "quotient": "scale"}, "scales in e4m3; choose fp32, fp16, bf16 or e8m0"),
    ({"source": "e8m0"}, "a source in e8m0; choose fp32, fp16 or bf16"),
    ({"arithmetic": "e4m3"}, "arithmetic in e4m3; choose fp32, fp16 or bf16"),
    ({"scale_format": "fp16"}, "rounded scales go with quotient 'inverse' or 'scale'"),
    ({"quotient": "approximate"}, "approximate quotients are known of bound 127 and fp16 sources"),
    ({"quotient": "approximate", "source": "fp16", "bits": 4},
     "approximate quotients are known of bound 127 and fp16 sources"),
    ({"scale_step": "absmax", "quotient": "scale"},
     "a scale that is the absmax goes with float32 and quotients 'bound', 'unit' and 'approximate'"),
    ({"tiny": "one"}, "codes do not see a scale that tiny 'one' puts in; take quotient 'inverse' or 'scale'"),
    ({"threshold": 0.0}, "threshold 0.0 outside 0 < threshold < 1"),
    ({"threshold": 1.0}, "threshold 1.0 outside 0 < threshold < 1"),
    ({"threshold": float("nan")}, "threshold nan outside 0 < threshold < 1"),
])  # fmt: skip
def test_contradictions(facts: dict[str, Any], message: str) -> None:
    with refuses(f"scheme s: {message}"):
        QScheme(name="s", **facts)
    with refuses(f"scheme s: {message}"):
        replace(VECTOR, name="s", **facts)


ABSMAX = replace(VECTOR, scale_step="absmax")


@pytest.mark.parametrize(("facts", "message"), [
    ({"x": None, "w": None}, "quantizes neither operand; use matmul"),
    ({"x": None}, "an integer product takes a QScheme for x and for w"),
    ({"w": pr.BLOCK_FORMATS["mxfp4"]}, "an integer product takes a QScheme for x and for w"),
    ({"threshold": 0.0}, "threshold 0.0; outliers are above 0"),
    ({"threshold": float("nan")}, "threshold nan; outliers are above 0"),
    ({"threshold": 6.0, "integer": False}, "a threshold goes with an integer product"),
    ({"absmax_of": "rows"}, "absmax_of 'rows' is not offered; choose one of columns, values"),
    ({"outlier_weights": "both"}, "outlier_weights 'both' is not offered; choose one of original, dequantized"),
    ({"dequantization": "bnb"}, "dequantization 'bnb' is not offered; choose one of scales, bnb_cpu, bnb_cuda"),
    ({"x": replace(VECTOR, clamps=False)}, "an integer product takes codes that clamp"),
    *((facts, "dequantization 'scales' is for scales, 'bnb_cpu' and 'bnb_cuda' for absmax with bound 127")
      for facts in ({"x": ABSMAX, "w": ABSMAX}, {"w": ABSMAX}, {"dequantization": "bnb_cpu"},
                    {"dequantization": "bnb_cuda", "x": ABSMAX, "w": replace(ABSMAX, bits=4)})),
])  # fmt: skip
def test_products(facts: dict[str, Any], message: str) -> None:
    with refuses(f"scheme s: {message}"):
        MatmulScheme(name="s", **{"x": VECTOR, "w": VECTOR, **facts})


def test_every_named_scheme_is_its_own_relative() -> None:
    for name in (*pr.SCHEMES, "int4_group32", "int8_group7_vectorwise"):
        scheme = pr.parse_scheme(name)
        assert replace(scheme) == scheme
        assert str(scheme) == scheme.name == name


def test_operands_that_stay() -> None:
    weight_only = pr.parse_scheme("int8_weight_only")
    with refuses("scheme int8_weight_only leaves x as it is; quantize w, along axis -2"):
        pr.quantize(np.ones((2, 3), np.float32), weight_only, axis=-1)
    with refuses("scheme s leaves w as it is; quantize x, along axis -1"):
        pr.quantize(np.ones((2, 3), np.float32), MatmulScheme(name="s", x=VECTOR, w=None, integer=False), axis=-2)


@pytest.mark.parametrize(("granularity", "needed"), [("column", 2), ("block", 2), ("vector", 1)])
def test_arrays_with_too_few_axes(granularity: Any, needed: int) -> None:
    scheme = replace(VECTOR, name="s", granularity=granularity, group=3 if granularity == "block" else None)
    for ndim in range(needed):
        with refuses(f"scheme s needs {needed} axes or more, and the array has {ndim}"):
            scheme.tiles(ndim, -1)
