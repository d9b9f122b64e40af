"""A run of this project as a GPT-2 checkpoint of Hugging Face: config.json and model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from qsim.atomic import new_folder, write_atomically
from qsim.config import ModelConfig
from qsim.importing.architectures import GPT2, Row
from qsim.importing.refusal import ModelError
from qsim.importing.safetensors_files import SINGLE
from qsim.positions import sinusoidal_table
from qsim.runs import require_new


def export_gpt2(config: ModelConfig, parameters: dict[str, np.ndarray], folder: Path) -> Path:
    """Parameters of a run, every bit, as a new folder that transformers and ``open_model`` read; the folder.

    GELU is by erf, which config.json calls ``gelu``; sinusoidal positions are written as a table of learned ones,
    which policies then round as they do every parameter.
    Errors: ModelError for ALiBi, which GPT-2 does not have, and for parameters that are not float32; RunError where
    the folder exists.
    """
    if config.positions == "alibi":
        raise ModelError("the run's positions are alibi, which GPT-2 has not; export one of learned or sinusoidal")
    tensors = _tensors(config, parameters)
    require_new(folder)
    with new_folder(folder) as temporary:
        write_atomically(temporary / SINGLE, save(tensors, {"format": "pt"}))  # transformers asks for one it knows
        write_atomically(temporary / "config.json", (json.dumps(gpt2_config(config), indent=1) + "\n").encode())
    return folder


def gpt2_config(config: ModelConfig) -> dict[str, Any]:
    """config.json of the same model."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": config.layers,
        "n_embd": config.hidden,
        "n_head": config.heads,
        "n_inner": 4 * config.hidden,
        "n_positions": config.length,
        "vocab_size": config.vocabulary,
        "activation_function": "gelu",
        "layer_norm_epsilon": config.layernorm_epsilon,
        "tie_word_embeddings": config.tied,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": config.dropout,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "float32",
    }


def _tensors(config: ModelConfig, parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By their names in the file; the layout of GPT-2 has one source for each parameter."""
    held = dict(parameters)
    if config.positions == "sinusoidal":
        held["embedding.positions"] = sinusoidal_table(config.length, config.hidden, config.position_scale)
    found = {_name(row): _written(row, held[row.ours]) for row in GPT2.rows if row.ours in held}
    for row in GPT2.layers:
        for i, w in enumerate(held[f"blocks.{row.ours}"]):
            found[_name(row).format(i=i)] = _written(row, w)
    return found


def _name(row: Row) -> str:
    name = row.sources[0].name
    return name if name in GPT2.bare else GPT2.prefixes[0] + name


def _written(row: Row, w: np.ndarray) -> np.ndarray:
    if w.dtype != np.float32:
        raise ModelError(
            f"{row.ours} is {w.dtype}, and float32 is exported; export a run of another policy than fp64"
        )
    return np.ascontiguousarray(w.T if row.turned else w)
