"""The format that a model is at home in, which it is compared with once it is quantized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from qsim.importing.json_file import read_json
from qsim.importing.opening import Model

OwnFormat = Literal["bf16", "fp16", "fp32"]


def own_format(model: Model) -> OwnFormat:
    """Of a quantized model the format it was quantized in; else a 16-bit one, what its run worked in or config.json
    says, ``bf16`` where that is neither."""
    if model.quantization is not None:
        return model.quantization.working
    return "fp16" if _said(model) in ("fp16", "float16", "torch.float16") else "bf16"


def _said(model: Model) -> str:
    if model.run is not None:
        return model.run.policy.parameters
    file = model.source / "config.json"
    values: Mapping[str, Any] = read_json(file) if file.is_file() else {}
    return str(values.get("torch_dtype") or values.get("dtype") or "")
