"""The oracle of other people's INT8 gives what the packages, and a GPU, gave when it was written."""

from __future__ import annotations

import hashlib
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import variant_oracle
from strategies import drawn, generator
from variant_cases import FLOATS, factors, matrix

# By dtype, of the packages: first digits of SHA-256 over codes and scales of ``matrix(dtype, 1)``, or a product.
RECORDED = {
    "torchao": ("41b274354b916f2f", "30e052c9c8f34fcf", "8bbf9ed21d110dc7"),
    "torchao_int4": ("525141d6196b2dde", "4ca3587ea7e90a30", "ccb3d4c5e7740f80"),
    "qwix": ("8ef5c29e37db8023", "38510a931e6124e2", "3e4b581594db5eee"),
    "aqt": ("a2ed1be588199ca4", "664200f82aad0515", "52756ee98009404a"),
    "bnb_cpu": ("3bfbd06e71ab3a67", "2c24d8d1a895b57b", "251af91fd2d084fd"),
    "smoothquant": ("c7e93502122c4568", "bbbdb29053c8a87c", "8270a95ac355fefa"),
    "torchao_product": ("5608089aa9fe2db4", "f3a9b59ae609ab2a", "72f65f854a3e4852"),
    "qwix_product": ("e793c68b51a6b2c7", "818c88e02a92e249", "5732d5db696504ab"),
    "aqt_product": ("de80c2da3efd34ea", "fae2394099b3b180", "e5a758592d480464"),
    "bnb_cpu_product": ("d1aa92f7b8216609", "24c26f295e0298cc", "9360516a75e2f67d"),
}
# Over the float32 values of __fdividef(127, a) for a = 0x0001 ... 0x7BFF in float16, computed by an H100.
QUOTIENTS = "6c75958602e09e9f0cea88ef035d4a2a5208a93969e2c220ed1e1b7b96844af2"


def digest(*arrays: Any) -> str:
    """SHA-256 of arrays, every NaN the same."""
    same = (
        np.where(np.isnan(x.astype(np.float32)), x.dtype.type("nan"), x) if x.dtype != np.int8 else x for x in arrays
    )
    return hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in same)).hexdigest()


def result_of(module: Any, name: str, dtype: str) -> str:
    """Of a quantizer or a product, in the oracle or in ``variant_packages``."""
    if name.endswith("_product"):
        return digest(getattr(module, name)(*factors(dtype, 1)[:2]))[:16]
    return digest(*getattr(module, name)(matrix(dtype, 1), *((8,) if name == "torchao_int4" else ())))[:16]


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("dtype", FLOATS)
def test_results_are_those_of_the_packages(name: str, dtype: str) -> None:
    assert result_of(variant_oracle, name, dtype) == RECORDED[name][list(FLOATS).index(dtype)]


def test_quotients_are_those_of_a_gpu() -> None:
    a = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16)
    quotients = variant_oracle.gpu_quotient(a)
    assert digest(quotients.astype("<f4")) == QUOTIENTS
    exact = [Fraction(127) / Fraction(float(x)) for x in a[::97]]
    ulps = [abs(Fraction(float(q)) - e) / e * 2**23 for q, e in zip(quotients[::97], exact, strict=True)]
    assert max(ulps) < 2


def test_quotients_of_no_number() -> None:
    a = np.array([0, np.inf, np.nan], np.float16)
    assert str(variant_oracle.gpu_quotient(a).tolist()) == "[inf, 0.0, nan]"


def test_fused_dequantization_rounds_the_exact_sum_twice() -> None:
    """To float32, then to float16, as the instruction and the conversion do."""
    rng = generator(3)
    acc = rng.integers(-(1 << 20), 1 << 20, (40, 30)).astype(np.int32)
    row, column = (drawn(rng, (n,), (118, 129)).view(np.float32) for n in (40, 30))
    bias = (rng.integers(-2048, 2048, 30) / 256).astype(np.float16)
    actual = variant_oracle.bnb_cuda_dequantized(acc, row, column, bias)
    scaled = acc.astype(np.float32) * row[:, None] * column
    constant = Fraction(float(np.float32(1 / 127**2)))
    for index, p in np.ndenumerate(scaled):
        exact = Fraction(float(p)) * constant + Fraction(float(bias[index[1]]))
        assert actual[index] == np.float16(nearest_float32(exact))


def nearest_float32(x: Fraction) -> np.float32:
    """Of the neighbours of one guess, the nearest; the even one of a tie."""
    guess = np.float32(float(x))
    near = [np.nextafter(guess, np.float32(end)) for end in (-np.inf, np.inf)]
    return min([guess, *near], key=lambda y: (abs(Fraction(float(y)) - x), int(y.view(np.uint32)) & 1))


def test_outliers_on_a_gpu() -> None:
    """float16(threshold) decides what counts; the codes compare with the threshold as it is."""
    x = np.array([[6, 1, -0.5, 2], [0.5, 0.25, 1, np.nan], [0, 0, 0, 0]], np.float16)
    codes, largest = variant_oracle.bnb_cuda(x, 6.001)
    assert codes.tolist() == [[0, 64, -32, 127], [0, 32, 127, 0], [0, 0, 0, 0]]
    assert largest.tolist() == [2, 1, 0]
    assert variant_oracle.bnb_cuda(x[:1], 6.001)[0].tolist() == [[125, 64, -32, 127]]
