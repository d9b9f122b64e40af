"""Quantized models on disk: every bit back, and every damage refused in a sentence that names the file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bits_assertions import assert_same_bits
from quantized_models import TOKENS, logits, quantized, small_model
from refusals import refused
from safetensors.numpy import save_file
from small_runs import small_run

from qsim.importing import ModelError, open_model
from qsim.post_training import PostTraining, QuantizedWeights, quantize_model, save_quantized
from qsim.post_training.files import quantize_to
from qsim.post_training.quantizing import Quantizing
from qsim.runs import RunError


@pytest.mark.parametrize(
    ("scheme", "fields"),
    [
        ("int8_vectorwise", {"sites": ("qkv", "logits"), "kv": "int8"}),
        ("int4_group8", {"working": "fp16"}),
        ("smoothquant", {}),
        ("int8_tensorwise", {"static": True}),
        ("torchao_bf16", {"working": "fp32"}),
        (None, {"kv": "int8"}),
    ],
)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_every_bit_comes_back(tmp_path: Path, kind: str, scheme: str | None, fields: dict[str, Any]) -> None:
    model = quantized(small_model(tmp_path, kind), scheme, **fields)
    found = open_model(save_quantized(model, tmp_path / "out"))
    assert (found.quantization, found.config, found.architecture) == (
        model.quantization,
        model.config,
        model.architecture,
    )
    assert isinstance(found.weights, QuantizedWeights)
    assert isinstance(model.weights, QuantizedWeights)
    assert found.weights.source_sha256 == model.weights.source_sha256
    for mine, theirs in zip(found.weights.parts(), model.weights.parts(), strict=True):
        assert mine.keys() == theirs.keys()
        assert all(mine[n].dtype == w.dtype and mine[n].tobytes() == w.tobytes() for n, w in theirs.items())
    assert_same_bits(logits(found), logits(model))
    assert not list(tmp_path.glob(".*"))


def test_piece_by_piece_is_the_same_folder(tmp_path: Path) -> None:
    model, how = small_model(tmp_path), PostTraining()
    save_quantized(quantize_model(model, how), tmp_path / "a")
    quantize_to(Quantizing.of(model, how, None), tmp_path / "b")
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_the_source_is_known_by_its_values(tmp_path: Path) -> None:
    model = small_model(tmp_path)
    lines = []
    for prefix, parameters in [("", model.weights.outer()), *((f"layer.{i}.", model.layer(i)) for i in range(3))]:
        for name, w in parameters.items():
            lines.append(f"{prefix}{name} {list(w.shape)} {hashlib.sha256(w.astype('<f4').tobytes()).hexdigest()}\n")
    found = quantized(model).weights
    assert isinstance(found, QuantizedWeights)
    assert found.source_sha256 == hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def test_a_run_keeps_its_tokenizer(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", "bf16", **{"steps": 2})
    model = open_model(run.path)
    found = open_model(save_quantized(quantized(model), tmp_path / "out"))
    assert found.run is None
    assert found.tokenizer.name == "bytes"
    assert_same_bits(logits(found, tokens=TOKENS), logits(quantized(model), tokens=TOKENS))


def test_a_folder_keeps_its_tokenizer(tmp_path: Path) -> None:
    source = small_model(tmp_path).source
    words = b'{"model": {"type": "WordLevel", "vocab": {"any": 0}, "unk_token": "any"}}'
    (source / "tokenizer.json").write_bytes(words)
    (source / "generation_config.json").write_text("{}")
    out = save_quantized(quantized(open_model(source)), tmp_path / "out")
    assert open_model(out).tokenizer.model == words
    assert (out / "generation_config.json").read_text() == "{}"
    (out / "tokenizer.json").write_bytes(b'{"any": 2}')
    with refused(ModelError, str(out / "tokenizer.json"), "SHA-256"):
        _ = open_model(out).tokenizer


def test_a_model_without_tokenizer(tmp_path: Path) -> None:
    found = open_model(save_quantized(quantized(small_model(tmp_path)), tmp_path / "out"))
    with refused(ModelError, "no tokenizer", "give tokens"):
        _ = found.tokenizer


# Damage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_quantized(quantized(small_model(tmp_path)), tmp_path / "out")


def rewritten(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("name", ["layer_1.safetensors", "outer.safetensors"])
def test_altered_and_cut_off_files(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    for wrong in (data[:-1], data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]):
        (folder / name).write_bytes(wrong)
        with refused(ModelError, str(folder / name), "SHA-256", "restore it"):
            open_model(folder)
    (folder / name).unlink()
    with refused(ModelError, str(folder / name), "missing"):
        open_model(folder)


def hashed(folder: Path, name: str) -> None:
    """The file's hash as config.json has it."""
    files = json.loads((folder / "config.json").read_text())["files"]
    rewritten(folder, files=files | {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()})


def test_files_that_are_whole_and_wrong(folder: Path) -> None:
    name = "layer_0.safetensors"
    (folder / name).write_bytes(b"no tensors")
    hashed(folder, name)
    with refused(ModelError, str(folder / name), "no whole safetensors file"):
        open_model(folder)
    save_file({"qkv.weight.codes": np.zeros((3, 3), np.int8)}, folder / name)
    hashed(folder, name)
    with refused(ModelError, str(folder / name), "no tensor layernorm_1.gain"):
        open_model(folder)


@pytest.mark.parametrize(
    ("part", "change", "texts"),
    [
        ("decoder", {"hidden": 48, "head_size": 16}, ("outer.safetensors", "shape", "[29, 48]")),
        ("decoder", {"hidden": 0}, ("config.json", "hidden is 0")),
        ("decoder", {"colour": 1}, ("config.json", "colour")),
        ("quantization", {"scheme": "int4_group8"}, ("layer_0.safetensors", "qkv.weight.codes", "uint8")),
        ("quantization", {"scheme": "int1"}, ("config.json", "int1")),
        ("quantization", {"sites": ["qkv"]}, ("layer_0.safetensors", "attention_out.weight")),
        ("quantization", {"working": "fp16"}, ("outer.safetensors", "bfloat16", "float16")),
        ("quantization", {"kv": 7}, ("config.json", "kv 7")),
    ],
)
def test_records_that_do_not_fit(folder: Path, part: str, change: dict[str, Any], texts: tuple[str, ...]) -> None:
    record = json.loads((folder / "config.json").read_text())
    rewritten(folder, **{part: record[part] | change})
    with refused(ModelError, *texts):
        open_model(folder)


@pytest.mark.parametrize("change", [{"tokenizer": "words"}, {"files": []}, {"architecture": 3}, {"more": 1}])
def test_a_configuration_that_is_none(folder: Path, change: dict[str, Any]) -> None:
    rewritten(folder, **change)
    with refused(ModelError, str(folder / "config.json"), "restore it"):
        open_model(folder)


def test_tensors_that_nobody_asked_for(folder: Path) -> None:
    record = json.loads((folder / "config.json").read_text())["quantization"]
    rewritten(folder, quantization=record | {"sites": ["qkv", "attention_out", "mlp_up"]})
    with refused(ModelError, "layer_0.safetensors", "mlp_down.weight"):
        open_model(folder)


def test_nothing_is_written_over(tmp_path: Path, folder: Path) -> None:
    with refused(RunError, str(folder), "exists already"):
        save_quantized(open_model(folder), folder)
    with refused(ModelError, "not quantized", "quantize_model"):
        save_quantized(small_model(tmp_path / "other"), tmp_path / "new")


def test_an_error_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(tmp_path)
    before = sorted(tmp_path.iterdir())

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qsim.post_training.files._write_tokenizer", stopped)
    with pytest.raises(KeyboardInterrupt):
        save_quantized(quantized(model), tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
