"""Regenerate the polynomial coefficients of `precision/elementary.py` and print them in hex, ready to paste.

Each polynomial minimises max |weight(x) (target(x) - sum_j c_j x^j)| over an interval, with c_j in float32:

1. interpolate the target at Chebyshev nodes with 50 digits (mpmath): within a small factor of the best;
2. the corrections d_j to those coefficients solve a linear programme on a dense grid: minimise e subject to
   -e <= weight (residual - sum_j d_j x^j) <= e, everything scaled to be of order one;
3. round c_0 to float32, keep it, solve again for the others, round c_1, and so on: each later coefficient
   makes good what the rounding of the earlier ones spoilt.

Run `python tests/scripts/fit_elementary.py`; it takes some seconds and needs mpmath and scipy.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import mpmath
import numpy as np
from mpmath import mp, mpf
from scipy.optimize import linprog

mp.dps = 50

GRID = 600
ERF_ENDS = (0.8125, 1.75, 2.75)  # below the first: odd polynomial; the others end intervals
TANH_END = 89 / 128  # of the odd polynomial: above, v = e^(-2a) is below 1/4 and known to 2^-26
RSQRT_GUESS = 0x5F37A800  # of the multiples of 2^11 the one whose guesses are the closest

Function = Callable[[mpf], mpf]


class Fit(NamedTuple):
    coefficients: list[np.float32]
    error: float  # max |weight * (target - polynomial)|


def chebyshev_points(low: mpf, high: mpf, count: int) -> list[mpf]:
    """The `count` Chebyshev nodes of [low, high], never an end of it."""
    return [
        (low + high) / 2 + (high - low) / 2 * mpmath.cos((2 * i + 1) * mpmath.pi / (2 * count)) for i in range(count)
    ]


def interpolate(target: Function, points: list[mpf]) -> list[mpf]:
    """Monomial coefficients of the polynomial through the target at `points`."""
    vandermonde = mpmath.matrix([[x**j for j in range(len(points))] for x in points])
    return list(mpmath.lu_solve(vandermonde, mpmath.matrix([target(x) for x in points])))


def evaluate(coefficients: list[mpf], x: mpf) -> mpf:
    """The polynomial, lowest power first, by Horner's scheme."""
    value = mpf(0)
    for c in reversed(coefficients):
        value = value * x + c
    return value


def corrections(
    residual: np.ndarray, basis: np.ndarray, weight: np.ndarray, lowest: list[float | None]
) -> np.ndarray:
    """d >= lowest that minimises max |weight * (residual - basis @ d)|, by a linear programme in (d, e)."""
    scale = np.abs(weight * residual).max()
    columns = basis * weight[:, None]
    size = np.abs(columns).max(axis=0)
    columns = columns / size
    right = weight * residual / scale
    bound = -np.ones((len(right), 1))
    solution = linprog(
        c=np.append(np.zeros(columns.shape[1]), 1.0),
        A_ub=np.block([[-columns, bound], [columns, bound]]),
        b_ub=np.concatenate([-right, right]),
        bounds=[(None if least is None else least * s / scale, None) for least, s in zip(lowest, size, strict=True)]
        + [(0, None)],
        method="highs",
    )
    return solution.x[:-1] * scale / size


def fit(target: Function, low: mpf, high: mpf, degree: int, weight: Function, positive: bool = False) -> Fit:
    """Float32 coefficients, lowest power first, of the weighted minimax polynomial (module docstring).

    `positive` keeps every coefficient >= 0: Horner's scheme in t >= 0 is then monotone, roundings included.
    """
    exact = interpolate(target, chebyshev_points(low, high, degree + 1))
    if positive:
        exact = [max(c, mpf(0)) for c in exact]
    grid = chebyshev_points(low, high, GRID)
    values = [target(x) for x in grid]
    weights = np.array([float(weight(x)) for x in grid])
    powers = np.array([[float(x) ** j for j in range(degree + 1)] for x in grid])
    for j in range(degree + 1):
        residual = np.array([float(v - evaluate(exact, x)) for v, x in zip(values, grid, strict=True)])
        lowest = [-float(c) if positive else None for c in exact[j:]]
        for k, correction in enumerate(corrections(residual, powers[:, j:], weights, lowest), start=j):
            exact[k] += mpf(float(correction))
            exact[k] = max(exact[k], mpf(0)) if positive else exact[k]
        exact[j] = mpf(float(np.float32(float(exact[j]))))
    return Fit([np.float32(float(c)) for c in exact], fit_error(exact, values, grid, weights))


def fit_error(coefficients: list[mpf], values: list[mpf], grid: list[mpf], weights: np.ndarray) -> float:
    """max |weight * (target - polynomial)| on the grid."""
    differences = [v - evaluate(coefficients, x) for v, x in zip(values, grid, strict=True)]
    return max(abs(float(d) * w) for d, w in zip(differences, weights, strict=True))


def centre_near(start: float) -> np.float32:
    """The float32 next to `start` whose erf is within 2^-38 of a float32, so that erf needs no low part."""
    centre = np.float32(start)
    while True:
        value = mpmath.erf(mpf(float(centre)))
        if abs(value - mpf(float(np.float32(float(value))))) < mpf(2) ** -38:
            return centre
        centre = np.nextafter(centre, np.float32(4))


def exp_tail(r: mpf) -> mpf:
    return (mpmath.exp(r) - 1 - r) / r**2


def log_tail(f: mpf) -> mpf:
    return (mpmath.log1p(f) - f + f * f / 2) / f**3


def erf_odd(z: mpf) -> mpf:
    """erf(a) / a - 1 as a function of z = a^2."""
    a = mpmath.sqrt(z)
    return mpmath.erf(a) / a - 1


def tanh_odd(z: mpf) -> mpf:
    """(tanh(a) / a - 1) / a^2 as a function of z = a^2."""
    a = mpmath.sqrt(z)
    return (mpmath.tanh(a) / a - 1) / z


def erf_slope(c: mpf, t: mpf) -> mpf:
    """(erf(c) - erf(c - t)) / t."""
    return (mpmath.erf(c) - mpmath.erf(c - t)) / t


def root_tail(r: mpf) -> mpf:
    """((1 - r)^(-1/2) - 1) / r."""
    return (1 / mpmath.sqrt(1 - r) - 1) / r


def root_reach(guess: int) -> float:
    """max |1 - m g^2| over every m in [1/2, 2), g the 8 upper bits of the pattern guess - m / 2."""
    pattern = np.arange(0x3F000000, 0x40000000, dtype=np.uint32)
    g = ((np.uint32(guess) - (pattern >> 1)) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    return float(np.abs(1 - pattern.view(np.float32) * g * g).max())  # 40 bits: exact


def fits() -> Iterator[tuple[str, Fit]]:
    """Every polynomial of the source, in its order."""
    half_ln2 = mpmath.log(2) / 2 * (1 + mpf(2) ** -10)  # the reduction may miss the midpoint by some rounding
    yield "exp", fit(exp_tail, -half_ln2, half_ln2, 5, lambda r: r**2 / mpmath.exp(r))
    low, high = mpmath.sqrt(mpf(1) / 2) - 1, mpmath.sqrt(mpf(2)) - 1
    yield "log", fit(log_tail, low, high, 8, lambda f: abs(f**3 / mpmath.log1p(f)))
    ends = [mpf(end) for end in ERF_ENDS]
    yield "erf, odd", fit(erf_odd, mpf(0), ends[0] ** 2, 7, lambda z: 1 / (1 + erf_odd(z)))
    last = np.float32(float(mpmath.erfinv(1 - mpf(2) ** -24)))
    centres = [centre_near(1.3), centre_near(ERF_ENDS[2]), last]
    for low, high, centre in zip(ends, [*ends[1:], mpf(float(last))], centres, strict=True):
        c = mpf(float(centre))
        name = f"erf around {hexadecimal(centre)}, where it is {hexadecimal(np.float32(float(mpmath.erf(c))))}"
        target = partial(erf_slope, c)
        yield name, fit(target, c - high, c - low, 8, abs, positive=centre is last)
    end = mpf(TANH_END)
    yield "tanh, odd", fit(tanh_odd, mpf(0), end**2, 6, lambda z: z / (1 + z * tanh_odd(z)))
    yield (
        "tanh, 1 / (1 + v)",
        fit(lambda v: 1 / (1 + v), mpf(0), mpmath.exp(-2 * end), 5, lambda v: 2 * v * v),
    )
    end = mpf(root_reach(RSQRT_GUESS))
    yield "rsqrt", fit(root_tail, -end, end, 4, lambda r: abs(r) * mpmath.sqrt(1 - r))


def hexadecimal(value: np.float32) -> str:
    """A float32 has 6 digits behind the point: `float.hex` writes 13."""
    if not value:
        return "0x0p+0"
    digits, exponent = float(value).hex().split("p")
    return f"{digits[: digits.index('.') + 7]}p{exponent}"


def main() -> None:
    for name, fitted in fits():
        print(f"# {name}: max error 2^{np.log2(fitted.error):.1f}")
        print(" ".join(hexadecimal(c) for c in fitted.coefficients))
    print("# rsqrt, the best guess:", hex(min(range(0x5F370000, 0x5F380000, 1 << 11), key=root_reach)))
    print("# erf rounds to 1 from about", hexadecimal(np.float32(float(mpmath.erfinv(1 - mpf(2) ** -25)))))


if __name__ == "__main__":
    main()
