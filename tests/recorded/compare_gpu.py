"""Compares recordings with the project's emulation: python tests/recorded/compare_gpu.py FOLDER.

For each kind: how many results differ from its model, in which distributions, and how many from each wrong model.
A model is right, and the recording able to tell, where the first count is 0 and the others are not.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

from recorded import quantizer_inputs  # noqa: E402
from recorded.models import by_distribution, emulated, model, recorded_words, wrong_models  # noqa: E402
from recorded.operands import KINDS, recording_of  # noqa: E402

SHOWN = 4


def load(folder: Path, file: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{file}.npz") as recording:
        return dict(recording)


def compare_kind(folder: Path, name: str) -> None:
    found = recorded_words(name, load(folder, recording_of(name))[name])
    expected = emulated(name, backend="numpy")
    differ = found != expected
    print(
        f"{name}: {int(differ.sum())} of {found.size} differ from {model(name).name}", by_distribution(name, differ)
    )
    for index in map(tuple, np.argwhere(differ)[:SHOWN]):
        print(f"    {[int(i) for i in index]}: recorded {found[index]:08x}, emulated {expected[index]:08x}")
    others = {
        what: int((found != emulated(name, record, "numpy")).sum()) for what, record in wrong_models(name).items()
    }
    print("   ", ", ".join(f"{what}: {count}" for what, count in others.items()), flush=True)


def compare_quantizer(folder: Path) -> None:
    arrays = load(folder, "quantizer")
    quotient = quantizer_inputs.quotients(arrays["fdividef_ulps"])
    x = quantizer_inputs.matrix()
    for threshold in quantizer_inputs.THRESHOLDS:
        for part, values in zip(
            ("codes", "absmax", "scale"), quantizer_inputs.quantized(x, threshold, quotient), strict=True
        ):
            found = arrays[f"{part} {threshold}"]
            print(f"quantizer {part}, threshold {threshold}: {count_unequal(found, values)} of {found.size} differ")
    y = quantizer_inputs.dequantized(*quantizer_inputs.sums())
    print(f"quantizer outputs: {count_unequal(arrays['dequantized'], y)} of {y.size} differ")


def count_unequal(x: np.ndarray, y: np.ndarray) -> int:
    return int((x.view(f"u{x.itemsize}") != y.view(f"u{y.itemsize}")).sum())


def attempt(compare: Any, *arguments: Any) -> None:
    try:
        compare(*arguments)
    except Exception:
        print(*arguments[1:], "failed:", traceback.format_exc().splitlines()[-1], flush=True)


def main(folder: Path) -> None:
    for name in KINDS:
        attempt(compare_kind, folder, name)
    attempt(compare_quantizer, folder)
    facts = json.loads((folder / "device.json").read_text())
    print(json.dumps({part: facts.get(part) for part in ("device", "open vectors", "int8")}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
