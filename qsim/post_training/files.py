"""A quantized model as a folder: config.json, a .safetensors file for each layer and one for the rest, its tokenizer.

config.json: ``decoder`` and ``quantization``, the two records; ``architecture`` and ``source_sha256`` of what it was
made of; ``tokenizer``, the name of its kind, or null; ``files``, the SHA-256 of every other file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from qsim.atomic import new_folder, write_atomically
from qsim.config import ConfigError
from qsim.decoder_config import DecoderConfig, layer_shapes
from qsim.importing.opening import Model
from qsim.importing.refusal import ModelError
from qsim.importing.tokenizer import HuggingFaceTokenizer, MissingPackageError
from qsim.post_training.how import PostTraining, Working, from_json
from qsim.post_training.quantizing import Quantizing
from qsim.post_training.weights import Facts, Held, QuantizedWeights, expected, shapes_outside
from qsim.runs import require_new
from qsim.text_sources import DataError
from qsim.tokenizers import ByteTokenizer, SentencePieceTokenizer, Tokenizer

_OUTER = "outer.safetensors"
_KEYS = ("architecture", "decoder", "quantization", "source_sha256", "tokenizer", "files")
_TOKENIZER_FILES = {"huggingface": "tokenizer.json", "sentencepiece": "tokenizer.model"}
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")  # of a Hugging Face folder


def save_quantized(model: Model, out: Path) -> Path:
    """Writes a model that ``quantize_model`` made as a new folder, whole or not at all; ``open_model`` reads it.

    Errors: ModelError for a model that is not quantized; RunError where the folder exists.
    """
    if not isinstance(model.weights, QuantizedWeights) or model.quantization is None:
        raise ModelError(f"{model.source} is not quantized; quantize_model makes what is saved")
    weights = model.weights
    return write_quantized(model, model.quantization, weights.parts(), lambda: weights.source_sha256, out)


def quantize_to(quantizing: Quantizing, out: Path, seen: Callable[[Held], None] = lambda _: None) -> Path:
    """The same of a model on its way, written piece after piece, so that no more than one layer is in memory."""

    def watched() -> Iterable[Held]:
        for held in quantizing.parts():
            seen(held)
            yield held

    return write_quantized(quantizing.model, quantizing.how, watched(), lambda: quantizing.source_sha256, out)


def write_unquantized(model: Model, working: Working, out: Path) -> Path:
    """The same of a model that is not quantized, its parameters in a format; ``open_model`` reads it as such.

    Errors: ModelError for a quantized model; RunError where the folder exists.
    """
    if model.quantization is not None:
        raise ModelError(f"{model.source} is quantized ({model.quantization}); copy its folder, which opens as it is")
    return quantize_to(Quantizing(model=model, how=PostTraining(scheme=None, working=working)), out)


def write_quantized(
    model: Model, how: PostTraining, parts: Iterable[Held], source_sha256: Callable[[], str], out: Path
) -> Path:
    """source_sha256: asked for once the parts have come to their end."""
    require_new(out)
    with new_folder(out) as folder:
        files: dict[str, str] = {}

        def write(name: str, data: bytes) -> None:
            write_atomically(folder / name, data)
            files[name] = hashlib.sha256(data).hexdigest()

        for name, held in zip(_names(model.config), parts, strict=True):
            write(name, save({key: np.ascontiguousarray(w) for key, w in held.items()}))
        tokenizer = _write_tokenizer(model, write)
        record: dict[str, Any] = {"architecture": model.architecture, "decoder": dataclasses.asdict(model.config)}
        record |= {"quantization": how.as_json(), "source_sha256": source_sha256(), "tokenizer": tokenizer}
        write("config.json", (json.dumps(record | {"files": dict(files)}, indent=1) + "\n").encode())
    return out


def _names(config: DecoderConfig) -> list[str]:
    return [_OUTER, *(f"layer_{i}.safetensors" for i in range(config.layers))]


def _write_tokenizer(model: Model, write: Callable[[str, bytes], None]) -> str | None:
    """Its kind; None where the model has none that is read.  ModelError, DataError for one that does not fit."""
    try:
        tokenizer = model.tokenizer
    except (ModelError, DataError):
        return None
    _check_fits(model, tokenizer)
    if tokenizer.model is not None:
        write(_TOKENIZER_FILES[tokenizer.name], tokenizer.model)
    if model.source.is_dir() and model.run is None:
        for name in _BESIDE:
            if (model.source / name).is_file():
                write(name, (model.source / name).read_bytes())
    return tokenizer.name


def _check_fits(model: Model, tokenizer: Tokenizer) -> None:
    """Whether the model has a row for every token; unknown without the package that reads a tokenizer."""
    try:
        size = tokenizer.vocabulary_size
    except MissingPackageError:
        return
    if size > model.config.vocabulary:
        raise ModelError(
            f"the tokenizer of {model.source} has {size} tokens and the model only {model.config.vocabulary}; put "
            "the model's own tokenizer beside it"
        )


def open_quantized(folder: Path, values: dict[str, Any]) -> Model:
    """The model of a folder whose config.json holds these values, whole in memory, layer after layer.

    Errors: ModelError for files that are missing or altered, and tensors that are not those of the two records.
    """
    place = folder / "config.json"
    config, how, files = _records(place, values)
    held = [_read(folder, name, files) for name in _names(config)]
    shapes = [shapes_outside(config, how), *[layer_shapes(config)] * config.layers]
    for name, tensors, own in zip(_names(config), held, shapes, strict=True):
        _check(folder / name, tensors, expected(own, how))
    weights = QuantizedWeights(
        config=config,
        how=how,
        held_outer=held[0],
        held_layers=tuple(held[1:]),
        source_sha256=values["source_sha256"],
    )
    return Model(
        architecture=values["architecture"],
        config=config,
        weights=weights,
        source=folder,
        read_tokenizer=partial(_tokenizer, folder, values["tokenizer"], files),
        quantization=how if how.quantizes else None,
    )


def _records(place: Path, values: dict[str, Any]) -> tuple[DecoderConfig, PostTraining, dict[str, str]]:
    try:
        if values.keys() != set(_KEYS):
            raise ValueError(f"it has not just the keys {', '.join(_KEYS)}")
        texts, files = [values["architecture"], values["source_sha256"]], values["files"]
        if not all(isinstance(text, str) for text in texts) or not isinstance(files, dict):
            raise ValueError("architecture and source_sha256 are texts, files names with hashes")
        if values["tokenizer"] not in (None, "bytes", *_TOKENIZER_FILES):
            raise ValueError(f"tokenizer {values['tokenizer']!r} is of no kind that is read")
        return DecoderConfig(**values["decoder"]), from_json(values["quantization"]), files
    except (TypeError, ValueError, ConfigError) as error:
        raise ModelError(f"{place} is of no quantized model ({error}); restore it") from None


def _checked(folder: Path, name: str, files: dict[str, str]) -> Path:
    """Of a file, held against its hash."""
    path = folder / name
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; restore it, or quantize again") from None
    if found != files.get(name):
        raise ModelError(f"{path} is not what config.json has the SHA-256 of; restore it, or quantize again")
    return path


def _read(folder: Path, name: str, files: dict[str, str]) -> Held:
    path = _checked(folder, name, files)
    try:
        with safe_open(str(path), framework="numpy") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  it is no mapping
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{path} is no whole safetensors file ({error}); restore it") from None


def _check(path: Path, tensors: Held, wanted: dict[str, Facts]) -> None:
    for name, (dtypes, shape) in wanted.items():
        if name not in tensors:
            raise ModelError(f"{path} has no tensor {name}; restore it, or quantize again")
        found = tensors[name]
        if found.dtype not in dtypes or found.shape != shape:
            raise ModelError(
                f"{path} holds {name} as {found.dtype} of shape {list(found.shape)}, and config.json asks for "
                f"{' or '.join(map(str, dtypes))} of {list(shape)}; restore the one or the other"
            )
    for name in sorted(tensors.keys() - wanted.keys()):
        raise ModelError(f"{path} holds {name}, which config.json says nothing of; restore the one or the other")


def _tokenizer(folder: Path, kind: str | None, files: dict[str, str]) -> Tokenizer:
    if kind is None:
        raise ModelError(f"{folder} has no tokenizer, as the model that it was made of; give tokens")
    if kind == "bytes":
        return ByteTokenizer()
    file = _checked(folder, _TOKENIZER_FILES[kind], files)
    if kind == "huggingface":
        return HuggingFaceTokenizer(model=file.read_bytes(), source=str(file))
    return SentencePieceTokenizer(model=file.read_bytes())
