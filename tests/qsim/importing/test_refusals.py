"""What is no model, or a damaged one, is refused in one sentence that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_checkpoints
from refusals import refused
from safetensors.numpy import save_file
from small_checkpoints import CHECKPOINTS, Checkpoint

from qsim.importing import ModelError, open_model
from qsim.importing.json_file import read_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_checkpoints.write(tmp_path / "model", CHECKPOINTS["gpt2"]())


def with_config(folder: Path, kind: str, changes: dict[str, Any], dropped: tuple[str, ...] = ()) -> Path:
    config, tensors = CHECKPOINTS[kind]()
    config = {key: value for key, value in (config | changes).items() if key not in dropped}
    return small_checkpoints.write(folder, (config, tensors))


def with_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], None], kind: str = "gpt2") -> Path:
    config, tensors = CHECKPOINTS[kind]()
    change(tensors)
    return small_checkpoints.write(folder, (config, tensors))


# Files


@pytest.mark.parametrize("left", [0, 4, 8, 100, 3000, -1])
def test_a_truncated_file(folder: Path, left: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    with refused(ModelError, str(file), "no whole safetensors file", "restore it"):
        open_model(folder)


def test_a_file_with_something_behind_its_end(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes() + b"\0")
    with refused(ModelError, str(file), "no whole safetensors file"):
        open_model(folder)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'"dtype":"F32"', b'"dtype":"F99"'),
        (b'"dtype":"F32"', b'"dtype":"F16"'),
        (b'"data_offsets":[0,', b'"data_offsets":[4,'),
        (b'{"', b'["'),
    ],
    ids=["type", "width", "offset", "brace"],
)
def test_a_tampered_header(folder: Path, before: bytes, after: bytes) -> None:
    file = folder / "model.safetensors"
    data = file.read_bytes()
    assert before in data
    file.write_bytes(data.replace(before, after, 1))
    with refused(ModelError, str(file), "no whole safetensors file"):
        open_model(folder)


def test_a_header_longer_than_the_file(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes((1 << 40).to_bytes(8, "little") + file.read_bytes()[8:])
    with refused(ModelError, str(file), "no whole safetensors file"):
        open_model(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl"])
def test_a_pickle_is_never_loaded(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"\x80\x04.")
    with refused(ModelError, str(file), "pickle", "never loaded", ".safetensors"):
        open_model(file)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_a_folder_of_pickles(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with refused(ModelError, str(folder / name), "pickle", "never loaded"):
        open_model(folder)


def test_paths_that_are_no_model(tmp_path: Path, folder: Path) -> None:
    with refused(ModelError, str(tmp_path / "nothing"), "does not exist"):
        open_model(tmp_path / "nothing")
    with refused(ModelError, str(tmp_path), "config.json", "a Hugging Face folder or a GGUF file"):
        open_model(tmp_path)
    with refused(ModelError, str(folder / "config.json"), "no folder and no .gguf file"):
        open_model(folder / "config.json")
    (folder / "model.safetensors").unlink()
    with refused(ModelError, str(folder), "neither model.safetensors nor model.safetensors.index.json"):
        open_model(folder)


# Shards


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return small_checkpoints.write_shards(tmp_path / "shards", CHECKPOINTS["llama"]())


def test_a_missing_shard(shards: Path) -> None:
    file = shards / "model-00002-of-00003.safetensors"
    file.unlink()
    with refused(ModelError, str(file), "is missing, one of 3 shards of model.safetensors.index.json"):
        open_model(shards)


def test_a_truncated_shard(shards: Path) -> None:
    file = shards / "model-00003-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-2])
    with refused(ModelError, str(file), "no whole safetensors file"):
        open_model(shards)


def test_a_shard_of_another_checkpoint(shards: Path) -> None:
    file = shards / "model-00001-of-00003.safetensors"
    save_file({"other": np.zeros(3, np.float32)}, file)
    with refused(ModelError, str(file), "has no tensor", "which model.safetensors.index.json says it has"):
        open_model(shards)


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": {"a": 1}}], ids=str)
def test_an_index_without_a_map(shards: Path, index: dict) -> None:
    file = shards / "model.safetensors.index.json"
    file.write_text(json.dumps(index))
    with refused(ModelError, str(file), "no weight_map"):
        open_model(shards)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/x.safetensors", "pytorch_model.bin", ".."])
def test_a_shard_somewhere_else(shards: Path, name: str) -> None:
    file = shards / "model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    with refused(ModelError, str(file), repr(name), "no .safetensors file beside it"):
        open_model(shards)


# Tensors


def test_a_missing_tensor(tmp_path: Path) -> None:
    for name in ("transformer.h.1.mlp.c_fc.bias", "transformer.wte.weight"):
        folder = with_tensors(tmp_path / name, lambda tensors, name=name: tensors.pop(name))  # type: ignore[misc]
        with refused(ModelError, "model.safetensors", f"no tensor {name}", "restore it"):
            open_model(folder)


def test_a_shape_that_contradicts_the_configuration(tmp_path: Path) -> None:
    for key, value, asked in (
        ("n_inner", 48, "[24, 48]"),
        ("vocab_size", 30, "[30, 24]"),
        ("n_positions", 9, "[9, 24]"),
    ):
        folder = with_config(tmp_path / key, "gpt2", {key: value})
        with refused(ModelError, str(folder / "model.safetensors"), "of shape", f"asks for {asked}"):
            open_model(folder)


def test_more_or_fewer_layers_than_the_configuration_says(tmp_path: Path) -> None:
    with refused(ModelError, "no tensor transformer.h.3.ln_1.weight"):
        open_model(with_config(tmp_path / "more", "gpt2", {"n_layer": 4}))
    with refused(ModelError, "no tensor transformer.h.3.ln_1.weight"):
        open_model(with_config(tmp_path / "no end of them", "gpt2", {"n_layer": (1 << 31) - 1}))
    with refused(ModelError, "holds transformer.h.2.", "which no such model has"):
        open_model(with_config(tmp_path / "fewer", "gpt2", {"n_layer": 2}))


def test_a_tensor_that_no_such_model_has(tmp_path: Path) -> None:
    def add(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.layers.0.self_attn.q_norm.weight"] = np.ones(8, np.float32)

    with refused(ModelError, "holds model.layers.0.self_attn.q_norm.weight, which no such model has"):
        open_model(with_tensors(tmp_path / "model", add, "llama"))


@pytest.mark.parametrize("dtype", [np.float64, np.int8, np.int32])
def test_types_that_are_not_read(tmp_path: Path, dtype: type) -> None:
    config, tensors = CHECKPOINTS["gpt2"]()
    folder, name = small_checkpoints.write(tmp_path / "model", (config, tensors)), "transformer.h.0.ln_1.weight"
    save_file(tensors | {name: tensors[name].astype(dtype)}, folder / "model.safetensors")
    with refused(ModelError, str(folder / "model.safetensors"), "which is not read; F32, F16, BF16 are"):
        open_model(folder)


# config.json


REQUIRED: dict[str, tuple[str, ...]] = {
    "gpt2": ("n_layer", "n_embd", "n_head", "vocab_size", "n_positions", "activation_function", "layer_norm_epsilon"),
    "opt": ("num_hidden_layers", "hidden_size", "ffn_dim", "max_position_embeddings", "activation_function"),
    "bloom": ("n_layer", "hidden_size", "n_head", "vocab_size", "layer_norm_epsilon"),
    "gpt_neox": ("num_attention_heads", "intermediate_size", "layer_norm_eps", "hidden_act"),
    "llama": ("num_hidden_layers", "rms_norm_eps", "intermediate_size", "hidden_act", "model_type"),
}


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in REQUIRED.items() for key in keys])
def test_a_missing_key(tmp_path: Path, kind: str, key: str) -> None:
    folder = with_config(tmp_path / "model", kind, {}, dropped=(key,))
    with refused(ModelError, str(folder / "config.json"), "has no", key, "restore the key"):
        open_model(folder)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before False; of opt models only True is offered"),
        ("opt", {"word_embed_proj_dim": 12}, "word_embed_proj_dim 12 and hidden_size 24; of opt models only equal"),
        ("opt", {"enable_bias": False}, "enable_bias False"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "only False is offered"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "only False is offered"),
        ("gpt2", {"activation_function": "mish"}, "activation 'mish', not offered"),
        ("gpt2", {"activation_function": ["gelu"]}, "activation ['gelu'], not offered"),
        (
            "gpt2",
            {"model_type": "gptj"},
            "architecture 'gptj', which is not offered; gpt2, opt, bloom, gpt_neox, llama",
        ),
        ("gpt2", {"activation_function": "gelu_tanh"}, "activation 'gelu_tanh', not offered"),
        ("gpt2", {"n_layer": "3"}, "layers is '3'"),
        ("gpt2", {"n_layer": 10**400}, "layers is 1000"),
        ("gpt2", {"n_embd": "24"}, "describes no decoder (hidden is '24'; a decoder has a whole number"),
        ("gpt2", {"n_embd": None}, "hidden is None"),
        ("gpt2", {"n_head": 0}, "heads is 0"),
        ("gpt2", {"n_head": "3"}, "heads is '3'"),
        ("gpt2", {"n_head": 5}, "24 is not divisible by 5 heads"),
        ("gpt2", {"layer_norm_epsilon": 0}, "epsilon is 0"),
        ("gpt2", {"layer_norm_epsilon": True}, "epsilon is True"),
        ("gpt2", {"tie_word_embeddings": "yes"}, "tied is 'yes'; it is true or false"),
        ("llama", {"num_key_value_heads": 2}, "3 heads do not share 2 heads of keys"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "only None is offered"),
        ("llama", {"rope_parameters": {"rope_type": "llama3"}}, "rope_parameters.rope_type 'llama3'"),
        ("llama", {"attention_bias": True}, "only False is offered"),
        ("llama", {"model_type": "mistral", "sliding_window": 8}, "sliding_window 8"),
        ("gpt_neox", {"rotary_pct": 0.4}, "turns 3 values"),
        ("gpt_neox", {"rotary_pct": 1.5}, "turns 12 values"),
        ("gpt_neox", {"rotary_pct": 1e308}, "rotary_fraction is 1e+308"),
    ],
    ids=str,
)
def test_what_is_not_offered(tmp_path: Path, kind: str, changes: dict, words: str) -> None:
    folder = with_config(tmp_path / "model", kind, changes)
    with refused(ModelError, str(folder / "config.json"), words):
        open_model(folder)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"model_type": ', "[" * 100000], ids=lambda text: text[:16])
def test_a_configuration_that_is_no_json_object(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with refused(ModelError, str(folder / "config.json"), "restore it"):
        open_model(folder)


def test_a_configuration_that_cannot_be_read(tmp_path: Path) -> None:
    with refused(ModelError, str(tmp_path), "cannot be read"):
        read_json(tmp_path)


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_keys_as_newer_releases_write_them(tmp_path: Path, kind: str) -> None:
    """Rotary settings moved into one mapping."""
    checkpoint: Checkpoint = CHECKPOINTS[kind]()
    old = open_model(small_checkpoints.write(tmp_path / "old", checkpoint))
    inside = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
    dropped = ("rope_theta", "rotary_pct", "rotary_emb_base")
    new = open_model(with_config(tmp_path / "new", kind, {"rope_parameters": inside}, dropped))
    assert new.config == old.config


def test_a_layer_that_the_model_does_not_have(folder: Path) -> None:
    model = open_model(folder)
    for number in (-1, 3):
        with pytest.raises(IndexError, match=f"layer {number} of a model of 3 layers"):
            model.layer(number)
