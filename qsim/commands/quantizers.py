"""``qsim quantizers``: the ways of quantizing as a table, records in full, or compared on the same matrices."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

import precision as pr
from precision import BlockFormat, MatmulScheme, QScheme
from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments

WIDTHS = {"x": 20, "w": 20, "definition": 34, "evidence": 10}  # with the name in 120 columns
FULL_WIDTHS = {"value": 92}
CANON = "int8_vectorwise"


def add(command: AddCommand) -> None:
    quantizers = command("quantizers", _quantizers, "print the ways of quantizing, or compare what they do")
    names = "such as llm_int8 or int4_group128: every field of its record; a table of all by default"
    quantizers.add_argument("names", nargs="*", metavar="NAME", help=names)
    quantizers.add_argument(
        "--compare", action="store_true", help=f"codes that differ from {CANON}'s, and errors, on the same matrices"
    )
    quantizers.add_argument("--x", metavar="FILE", help="with --compare: x (m, k) as .npy; drawn by default")
    quantizers.add_argument("--w", metavar="FILE", help="with --compare: w (k, n) as .npy; drawn by default")
    quantizers.add_argument(
        "--seed", type=int, default=0, help="of the matrices drawn: normal, three columns of x x 20"
    )


def _quantizers(arguments: Arguments) -> int:
    asked = list({scheme.name: scheme for scheme in map(pr.parse_scheme, arguments.names)}.values())
    if arguments.compare:
        rows = compare(*matrices(arguments.x, arguments.w, arguments.seed), asked or list(pr.SCHEMES.values()))
        print(json.dumps(rows, indent=1)) if arguments.json else print_columns(rows)
    elif arguments.x or arguments.w:
        raise ValueError("--x and --w are matrices to compare on; add --compare")
    elif arguments.json:
        print(json.dumps([as_json(scheme) for scheme in asked or pr.SCHEMES.values()], indent=1))
    elif asked:
        for i, scheme in enumerate(asked):
            print(end="\n" if i else "")
            print_columns([{"field": key, "value": value} for key, value in _fields(scheme)], widths=FULL_WIDTHS)
    else:
        print_columns([_row(scheme) for scheme in pr.SCHEMES.values()], widths=WIDTHS)
    return 0


def as_json(scheme: MatmulScheme) -> dict[str, Any]:
    """Every field; operands as records of their own."""
    return dataclasses.asdict(scheme)


def _row(scheme: MatmulScheme) -> dict[str, Any]:
    return {
        "name": scheme.name,
        "x": _operand(scheme.x, scheme.working),
        "w": _operand(scheme.w, scheme.working),
        "definition": scheme.description,
        "evidence": scheme.evidence,
    }


def _operand(one: QScheme | BlockFormat | None, working: str) -> str:
    if one is None:
        return working
    if isinstance(one, BlockFormat):
        return one.name
    where = f"{one.granularity} {one.group}" if one.group else one.granularity
    return f"{'int' if one.symmetric else 'affine int'}{one.bits}, {where}"


def _fields(scheme: MatmulScheme) -> list[tuple[str, Any]]:
    """Fields of the scheme and, as ``x.bits``, of its operands."""
    found: list[tuple[str, Any]] = []
    for key, value in as_json(scheme).items():
        if isinstance(value, dict) and value == as_json(scheme).get("x") and key == "w":
            found.append((key, "as x"))
        elif isinstance(value, dict):
            found += [(f"{key}.{name}", _in_words(one)) for name, one in value.items()]
        else:
            found.append((key, _in_words(value)))
    return found


def _in_words(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_words(one)}" for key, one in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return None if value == "" else value


# What they make of the same matrices


def matrices(x: str | None, w: str | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """x (m, k) and w (k, n): read, or drawn where neither is given."""
    if (x is None) != (w is None):
        raise ValueError("one matrix is given; give both --x and --w, or neither")
    if x is not None and w is not None:
        a, b = read_matrix(x), read_matrix(w)
        if a.shape[1] != b.shape[0]:
            raise ValueError(f"{x} of shape {a.shape} and {w} of {b.shape} do not multiply; x is (m, k), w (k, n)")
        return a, b
    if seed < 0:
        raise ValueError(f"seed {seed} is negative; choose 0 or more")
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(512, 1024)).astype(np.float32), rng.normal(size=(1024, 512)).astype(np.float32)
    a[:, [7, 300, 511]] *= 20
    return pr.round_to(a, pr.FP16), pr.round_to(b / np.float32(32), pr.FP16)


def read_matrix(path: str) -> np.ndarray:
    """A matrix of finite floats from .npy, wider ones refused where float32 would round them."""
    if not Path(path).is_file():
        raise ValueError(f"{path} is not there; save a matrix with numpy.save")
    try:
        with Path(path).open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, TokenError) as wrong:  # the last from a header that ends early
        raise ValueError(f"{path} is no .npy file of numbers: {wrong}") from None
    if array.ndim != 2 or array.dtype.kind != "f" or not array.size:
        raise ValueError(f"{path} holds {array.dtype} of shape {array.shape}; a matrix of floats is needed")
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    if array.itemsize > narrow.itemsize and not np.array_equal(narrow, array, equal_nan=True):
        raise ValueError(f"{path} is {array.dtype}, which float32 would round; save it as float32")
    places = np.argwhere(~np.isfinite(narrow))
    if len(places):
        at = list(map(int, places[0]))
        raise ValueError(f"{path} holds {narrow[tuple(at)]} at {at}, which no code stands for; mend it")
    return narrow


def compare(x: np.ndarray, w: np.ndarray, schemes: list[MatmulScheme]) -> list[dict[str, Any]]:
    """For each scheme: how many codes are not the canon's, and the SQNR of what codes stand for and of y.

    Codes are compared where both are INT8 by vectors.  What overflows in a scheme's own format is not refused: it has
    no SQNR, and outputs that are not finite are counted.
    """
    exact = x.astype(np.float64) @ w.astype(np.float64)
    canon = [pr.quantize(operand, CANON, axis=axis).codes for operand, axis in ((x, -1), (w, -2))]
    return [_compared(scheme, x, w, exact, canon) for scheme in schemes]


def _compared(scheme: MatmulScheme, x: Any, w: Any, exact: np.ndarray, canon: list[Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": scheme.name}
    for name, operand, one, axis, codes in (("x", x, scheme.x, -1, canon[0]), ("w", w, scheme.w, -2, canon[1])):
        q = None if one is None else pr.quantize(operand, one, axis=axis, nonfinite="propagate")
        plain = isinstance(one, QScheme) and one.bits == 8 and one.symmetric and one.granularity == "vector"
        row[f"{name} codes differ"] = int((q.codes != codes).sum()) if q is not None and plain else None
        row[f"{name} SQNR dB"] = None if q is None else sqnr(operand, q.dequantize())
    output = pr.FP32 if scheme.working == "fp32" else scheme.working
    y = pr.quantized_matmul(x, w, scheme=scheme, output=output, nonfinite="propagate")
    row["y SQNR dB"] = sqnr(exact, y)
    row["y not finite"] = int((~np.isfinite(y)).sum())
    return row


def sqnr(true: np.ndarray, rounded: np.ndarray) -> float | None:
    """10 log10 of signal power over error power, two decimals; None without error, or with one that is not finite."""
    error = np.sum(np.square(true.astype(np.float64) - rounded))
    power = np.sum(np.square(true, dtype=np.float64))
    return None if not error or not np.isfinite(error) or not power else round(float(10 * np.log10(power / error)), 2)
