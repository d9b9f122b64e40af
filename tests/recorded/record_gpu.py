"""Records what a Hopper GPU computes: python tests/recorded/record_gpu.py FOLDER, with nvcc and NumPy alone.

Writes mma.npz, mma_fp8.npz, wgmma.npz (results of tensor core instructions on ``operands``), quantizer.npz (divisions
and INT8 row quantization on ``quantizer_inputs``) and device.json.  A part that fails is named, and the others go on.
"""

from __future__ import annotations

import ctypes
import datetime
import hashlib
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from recorded import quantizer_inputs  # noqa: E402
from recorded.operands import (  # noqa: E402
    CHAIN,
    INT8_KINDS,
    KINDS,
    OPEN_VECTORS,
    Kind,
    int8_operands,
    kept,
    open_vector,
    operands,
    recording_of,
)

TARGET = "-gencode=arch=compute_90a,code=sm_90a"


def build(source: str, folder: Path, *flags: str) -> ctypes.CDLL:
    """The source as a library."""
    library = folder / f"{source}{''.join(flags)}.so"
    command = ["nvcc", "-O2", TARGET, *flags, "-shared", "-Xcompiler", "-fPIC", "-o", library, HERE / f"{source}.cu"]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.error_name.restype = ctypes.c_char_p
    return loaded


def address(x: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.ctypes.data)


def check(library: ctypes.CDLL, error: int) -> None:
    if error:
        raise RuntimeError(f"CUDA error {error}: {library.error_name(error).decode()}")


def sha256(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in arrays)).hexdigest()


# Tensor cores


def run(library: ctypes.CDLL, kind: Kind, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """d of all products, in the words of c."""
    a, b, c = (np.ascontiguousarray(x) for x in (a, b, c))
    d = np.zeros_like(c)
    sizes = np.array([x.nbytes // 4 for x in (a, b, c)], np.int64)
    error = library.products(kind.number, *a.shape[:2], address(sizes), *map(address, (a, b, c, d)))
    check(library, error)
    return d


def tensor_core_results(library: ctypes.CDLL, name: str) -> tuple[np.ndarray, dict[str, str]]:
    """Kept results of a kind, single instructions first; hashes of all operands and all results."""
    kind, inputs, results = KINDS[name], [], []
    for steps in (1, CHAIN):
        inputs += operands(name, steps)
        results.append(run(library, kind, *inputs[-3:]))
    again = run(library, kind, *inputs[-3:])
    if again.tobytes() != results[-1].tobytes():
        raise RuntimeError(f"{name}: a second run gave other bits")
    recorded = np.concatenate([kept(d) for d in results])
    return recorded, {"operands": sha256(*inputs), "results": sha256(*results)}


def record_tensor_cores(library: ctypes.CDLL, folder: Path) -> dict[str, Any]:
    files: dict[str, dict[str, np.ndarray]] = {}
    facts: dict[str, Any] = {"kinds": {}}
    for name in KINDS:
        try:
            results, facts["kinds"][name] = tensor_core_results(library, name)
        except RuntimeError as problem:
            facts["kinds"][name] = {"failed": str(problem)}
            print(f"{name}: {problem}")
            continue
        files.setdefault(recording_of(name), {})[name] = results
    for file, arrays in files.items():
        np.savez_compressed(folder / f"{file}.npz", **arrays)
    return facts


def ask_open_vectors(library: ctypes.CDLL) -> dict[str, str]:
    answers = {}
    for vector, (_, _, _, meanings) in OPEN_VECTORS.items():
        name, *parts = open_vector(vector)
        word = int(run(library, KINDS[name], *parts)[0, 0, 0])
        answers[vector] = f"0x{word:x}: {meanings.get(word, 'neither')}"
        print(f"{vector} ({name}): {answers[vector]}")
    return answers


def compare_int8(library: ctypes.CDLL) -> dict[str, str]:
    """Results that are not the sum modulo 2^32."""
    counts = {}
    for name, kind in INT8_KINDS.items():
        wrong = total = 0
        for steps in (1, CHAIN):
            a, b, c = int8_operands(name, steps)
            exact = np.einsum("psmk,psnk->pmn", a.astype(np.int64), b.astype(np.int64)) + c
            found = run(library, kind, a, b, c)
            wrong += int((found != exact.astype(np.int32)).sum())
            total += found.size
        counts[name] = f"{wrong} of {total} are not the sum modulo 2^32"
        print(f"{name}: {counts[name]}")
    return counts


# Divisions and quantization


def divisions(library: ctypes.CDLL, codes: np.ndarray) -> dict[str, np.ndarray]:
    results = {name: np.zeros(len(codes), np.float32) for name in ("fdividef", "slash", "rcp_approx", "frcp_rn")}
    check(library, library.divisions(len(codes), address(codes), *map(address, results.values())))
    return results


def ulps(x: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance of positive float32 in units of the last place."""
    distance = x.view(np.int32).astype(np.int64) - exact.view(np.int32)
    if np.abs(distance).max() > 127:
        raise RuntimeError(f"a quotient is {int(np.abs(distance).max())} ulp off")
    return distance.astype(np.int8)


def record_divisions(library: ctypes.CDLL, ieee: ctypes.CDLL) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Of every positive fp16: distances to the rounded quotient; of zero, infinity and NaN: the patterns."""
    codes = quantizer_inputs.positive_halves()
    a = codes.view(np.float16).astype(np.float32)
    fast, strict = divisions(library, codes), divisions(ieee, codes)
    quotient, inverse = np.float32(127) / a, np.float32(1) / a
    arrays = {"fdividef_ulps": ulps(fast["fdividef"], quotient), "rcp_ulps": ulps(fast["rcp_approx"], inverse)}
    special = np.array([0x0000, 0x8000, 0x7C00, 0x7E00], np.uint16)
    at_special = {
        f"{name} of 0, -0, inf, NaN": [hex(word) for word in divisions(library, special)[name].view(np.uint32)]
        for name in ("fdividef", "rcp_approx")
    }
    facts = {
        "fdividef, results by ulps": _histogram(arrays["fdividef_ulps"]),
        "rcp.approx.ftz, results by ulps": _histogram(arrays["rcp_ulps"]),
        "fdividef other than RN(127 rcp.approx)": _unequal(fast["fdividef"], np.float32(127) * fast["rcp_approx"]),
        "fdividef other without --use_fast_math": _unequal(fast["fdividef"], strict["fdividef"]),
        "/ with --use_fast_math other than fdividef": _unequal(fast["slash"], fast["fdividef"]),
        "/ without it other than rounded": _unequal(strict["slash"], quotient),
        "__frcp_rn other than rounded": _unequal(strict["frcp_rn"], inverse),
    } | at_special
    return arrays, facts


def _histogram(x: np.ndarray) -> dict[str, int]:
    values, counts = np.unique(x, return_counts=True)
    return dict(zip(map(str, values.tolist()), counts.tolist(), strict=True))


def _unequal(x: np.ndarray, y: np.ndarray) -> int:
    return int((x.view(np.uint32) != y.view(np.uint32)).sum())


def quantize(library: ctypes.CDLL, x: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int8 codes (rows, columns), absmax and 127 / absmax of the rows."""
    codes, absmax, scale = np.zeros(x.shape, np.int8), *np.zeros((2, len(x)), np.float32)
    parts = (x, codes, absmax, scale)
    check(library, library.quantize_rows(*x.shape, ctypes.c_float(threshold), *map(address, parts)))
    return codes, absmax, scale


def dequantize(
    library: ctypes.CDLL, sums: np.ndarray, rows: np.ndarray, columns: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    y = np.zeros(sums.shape, np.uint16)
    check(library, library.dequantize_sums(*sums.shape, *map(address, (sums, rows, columns, bias, y))))
    return y


def record_quantizer(library: ctypes.CDLL, ieee: ctypes.CDLL, folder: Path) -> dict[str, Any]:
    arrays, facts = record_divisions(library, ieee)
    x = quantizer_inputs.matrix()
    for threshold in quantizer_inputs.THRESHOLDS:
        codes, absmax, scale = quantize(library, x, threshold)
        arrays |= {f"codes {threshold}": codes, f"absmax {threshold}": absmax, f"scale {threshold}": scale}
        other = quantize(ieee, x, threshold)[0]
        facts[f"codes other without --use_fast_math, threshold {threshold}"] = int((codes != other).sum())
    parts = quantizer_inputs.sums()
    arrays["dequantized"] = dequantize(library, *parts)
    facts["outputs other without --use_fast_math"] = int((dequantize(ieee, *parts) != arrays["dequantized"]).sum())
    np.savez_compressed(folder / "quantizer.npz", **arrays)
    facts["operands"] = sha256(x, *parts)
    for name, fact in facts.items():
        print(f"{name}: {fact}")
    return facts


# The whole


def device(library: ctypes.CDLL) -> dict[str, str]:
    name, driver, runtime = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
    check(library, library.device_name(name, ctypes.byref(driver), ctypes.byref(runtime)))
    nvcc = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        installed = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        installed = "unknown"
    return {
        "device": name.value.decode(),
        "driver": installed,
        "cuda driver": str(driver.value),
        "cuda runtime": str(runtime.value),
        "nvcc": nvcc.strip().splitlines()[-1],
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def attempt(facts: dict[str, Any], name: str, part: Callable[[], Any]) -> None:
    """The part's facts under its name, or why there are none."""
    began = time.perf_counter()
    try:
        facts[name] = part()
    except Exception:
        traceback.print_exc()
        facts[name] = {"failed": traceback.format_exc().splitlines()[-1]}
    print(f"-- {name}: {time.perf_counter() - began:.1f} s", flush=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        built = Path(temporary)
        libraries: dict[str, Any] = {}
        attempt(libraries, "cores", lambda: build("record_tensor_cores", built))
        attempt(libraries, "fast", lambda: build("record_quantizer_arithmetic", built, "--use_fast_math"))
        attempt(libraries, "ieee", lambda: build("record_quantizer_arithmetic", built))
        cores = libraries["cores"]
        attempt(facts, "device", lambda: device(cores))
        attempt(facts, "open vectors", lambda: ask_open_vectors(cores))
        attempt(facts, "tensor cores", lambda: record_tensor_cores(cores, folder))
        attempt(facts, "int8", lambda: compare_int8(cores))
        attempt(facts, "quantizer", lambda: record_quantizer(libraries["fast"], libraries["ieee"], folder))
    (folder / "device.json").write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
