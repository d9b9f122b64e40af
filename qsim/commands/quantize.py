"""``qsim quantize``: a model with its linear layers as codes and scales, written as a folder that opens again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments
from qsim.commands.quantization_options import add_quantization_options, calibration, post_training

if TYPE_CHECKING:
    from qsim.importing import Model
    from qsim.post_training import Bytes, Memory, PostTraining

_NONE = "none"


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
    parser.add_argument(
        "--working", choices=("bf16", "fp16", "fp32"),
        help="format of the parameters before, and of those that stay (default: the model's own, else bf16)",
    )  # fmt: skip
    add_quantization_options(parser)
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
    tokens = calibration(arguments, model)[0] if how.calibrates or arguments.calibration else None
    quantizing = Quantizing.of(model, how, tokens, arguments.executor)
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
    from qsim.importing import own_format

    scheme = None if arguments.scheme == _NONE else arguments.scheme
    return post_training(arguments, scheme, arguments.kv, arguments.working or own_format(model))


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
