"""``qsim quantize``: a model with its linear layers as codes and scales, written as a folder that opens again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments
from qsim.config import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from qsim.importing import Model
    from qsim.post_training import Bytes, Memory, PostTraining
    from qsim.post_training.how import Working

_NONE = "none"
_OWN = {"float16": "fp16", "bfloat16": "bf16"}  # of torch_dtype


def add(command: AddCommand) -> None:
    parser = command(
        "quantize", _quantize, "quantize a model after training, one-shot, into a folder that opens again"
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a run, a Hugging Face folder or a GGUF file")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument(
        "--scheme", default="int8_vectorwise",
        help="of linear layers, see qsim quantizers (default int8_vectorwise); none: keys and values alone",
    )  # fmt: skip
    parser.add_argument("--kv", choices=("int8",), help="keys and values of attention in INT8")
    parser.add_argument(
        "--sites", nargs="+", metavar="SITE", help="which products (default: qkv attention_out mlp_up mlp_down)"
    )
    parser.add_argument(
        "--working", choices=("bf16", "fp16", "fp32"),
        help="format of the parameters before, and of those that stay (default: the model's own, else bf16)",
    )  # fmt: skip
    parser.add_argument(
        "--dequantize-to", choices=("fp16", "bf16", "fp32"), default="fp16",
        help="format that quantized products leave in (default fp16)",
    )  # fmt: skip
    parser.add_argument("--alpha", type=float, help="smooth qkv and mlp_up, 0 to 1 (smoothquant: default 0.5)")
    parser.add_argument("--static", action="store_true", help="ranges of activations from --calibration")
    parser.add_argument("--calibration", type=Path, nargs="+", metavar="FILE", help="text to calibrate on")
    parser.add_argument(
        "--calibration-tokens", type=int, default=8192, metavar="N", help="from its beginning (default 8192)"
    )
    parser.add_argument(
        "--executor", choices=("numpy", "numba"), default="numba", help="what calibrates (default numba)"
    )


def _quantize(arguments: Arguments) -> int:
    from qsim.importing import open_model
    from qsim.post_training import memory_by_formula, memory_held
    from qsim.post_training.files import quantize_to
    from qsim.post_training.quantizing import Quantizing
    from qsim.runs import require_new

    require_new(arguments.out)
    model = open_model(arguments.model)
    how = _asked(arguments, model)
    quantizing = Quantizing.of(model, how, _calibration(arguments, model), arguments.executor)
    seen: list[Any] = []
    quantize_to(quantizing, arguments.out, lambda held: seen.append({n: _Size(w.nbytes) for n, w in held.items()}))
    held, formula = memory_held(seen, model.config, how), memory_by_formula(model.config, how)
    result: dict[str, Any] = {"from": str(model.source), "to": str(arguments.out), "quantization": how.as_json()}
    result |= {"source_sha256": quantizing.source_sha256, "memory": _rows(held, formula)}
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        _print(result, how)
    return 0


def _asked(arguments: Arguments, model: Model) -> PostTraining:
    from qsim.post_training import PostTraining

    given: dict[str, Any] = {"sites": tuple(arguments.sites)} if arguments.sites else {}
    return PostTraining(
        scheme=None if arguments.scheme == _NONE else arguments.scheme,
        kv=arguments.kv,
        working=arguments.working or _own_format(model),
        dequantize_to=arguments.dequantize_to,
        alpha=arguments.alpha,
        static=arguments.static,
        **given,
    )


def _own_format(model: Model) -> Working:
    """Of 16 bits, that of a run's policy or of a Hugging Face folder's ``torch_dtype``; else bf16."""
    if model.run is not None:
        found = model.run.policy.parameters
    else:
        place = model.source / "config.json"
        values = json.loads(place.read_text()) if place.is_file() else {}
        found = _OWN.get(str(values.get("torch_dtype") or values.get("dtype")), "bf16")
    return "fp16" if found == "fp16" else "bf16"


def _calibration(arguments: Arguments, model: Model) -> np.ndarray | None:
    """Tokens (B, T) of the files, T the model's length or 512."""
    if arguments.calibration is None:
        return None
    if arguments.calibration_tokens < 1:
        raise ConfigError(f"--calibration-tokens is {arguments.calibration_tokens}; it must be at least 1")
    text = "\n".join(_text(path) for path in arguments.calibration)
    tokens = model.tokenizer.encode(text[: 64 * arguments.calibration_tokens])[: arguments.calibration_tokens]
    length = min(model.config.length, 512, len(tokens))
    if not length:
        raise ConfigError(f"--calibration {arguments.calibration[0]} holds no text; name files that do")
    return tokens[: len(tokens) // length * length].astype("int32").reshape(-1, length)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--calibration {path} is not UTF-8 at byte {error.start}; name text files") from None


class _Size:
    """What of an array is counted once it is written."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes


def _rows(held: Memory, formula: Memory) -> list[dict[str, Any]]:
    parts = (("linear layers", "linear"), ("others", "others"), ("whole model", "whole"))
    return [_row(name, getattr(held, part), getattr(formula, part)) for name, part in parts]


def _row(name: str, held: Bytes, formula: Bytes) -> dict[str, Any]:
    row: dict[str, Any] = {"parameters": name, "float32": held.float32, "half": held.half}
    return row | {"quantized": held.quantized, "by_formula": formula.quantized, "saved": round(held.saved, 6)}


def _print(result: dict[str, Any], how: PostTraining) -> None:
    print(f"wrote {result['to']}: {how}; the others in {how.working}")
    print_columns(
        [
            {"bytes of": row["parameters"]}
            | {name: f"{row[key]:,}" for name, key in (("float32", "float32"), ("16 bits", "half"))}
            | {"quantized, held": f"{row['quantized']:,}", "by formula": f"{row['by_formula']:,}"}
            | {"below 16 bits": f"{row['saved']:.2%}"}
            for row in result["memory"]
        ]
    )
    print("formula: " + _formula(how))


def _formula(how: PostTraining) -> str:
    width = {"bf16": 2, "fp16": 2, "fp32": 4}[how.working]
    if how.scheme is None:
        return f"{width} bytes a parameter"
    scheme = how.weight_scheme
    codes = f"k ceil({scheme.bits} n / 8)" if scheme.bits in (2, 4) else "k n"
    tile = {"tensor": "1", "vector": "n", "group": f"n ceil(k / {scheme.group})"}[scheme.granularity]
    scales = f"{scheme.stored_scale.bits // 8} x {tile}"
    return f"{codes} + {scales} bytes for a weight (k, n), {width} bytes for any other parameter"
