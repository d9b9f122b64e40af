"""MODEL, the same wherever one is named: a run, a checkpoint of one, a Hugging Face folder or a GGUF file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsim.arithmetic import Arithmetic
from qsim.checkpoints import CheckpointError, load_checkpoint, saved_steps
from qsim.decoder import ResidentWeights, Weights
from qsim.decoder_config import DecoderConfig, of_model
from qsim.held_weights import hold
from qsim.importing.configurations import GGUF, HUGGING_FACE, architecture_named, decoder_config
from qsim.importing.gguf_files import GgufFile
from qsim.importing.gguf_tokenizer import tokenizer_of
from qsim.importing.json_file import read_json
from qsim.importing.refusal import ModelError
from qsim.importing.safetensors_files import open_safetensors, pickled
from qsim.importing.tokenizer import HuggingFaceTokenizer
from qsim.importing.weights import FileWeights
from qsim.run_data import load_data
from qsim.runs import RunFolder
from qsim.tokenizers import Tokenizer, tokenizer_named

if TYPE_CHECKING:
    from qsim.post_training.how import PostTraining

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_STEP = re.compile(r"step_(\d+)")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A decoder to be run by ``qsim.decoder.decoder_forward``.

    architecture: ``qsim`` for a run of this project, otherwise the file's.  source: the file or folder that it comes
    from.  weights: of a run in memory, of files read layer by layer.  run: where it is one of this project.
    quantization: how it was quantized (``qsim.post_training``); its weights hold QArrays then, and it is computed
    with ``qsim.post_training.calculator_for``.
    """

    architecture: str
    config: DecoderConfig
    weights: Weights
    source: Path
    read_tokenizer: Callable[[], Tokenizer]
    run: RunFolder | None = None
    quantization: PostTraining | None = None

    def layer(self, number: int) -> dict[str, Any]:
        """Parameters of one layer, float32 but for quantized ones."""
        return self.weights.layer(number)

    def resident(self, policy: Arithmetic | None = None, executor: str = "numba") -> Model:
        """The same model with its parameters in memory, read once and rounded once to a policy's working format.

        Its logits under that policy have the bits of the model that is read layer by layer; so they have under any
        policy without one.  Memory: what parameters take in float32 and, while they are read, a layer's besides.
        """
        from qsim.post_training.calculating import calculator_for  # which knows models

        calculator = None if policy is None else calculator_for(self, policy, executor, hardware=False)
        return replace(self, weights=hold(self.weights, self.config.layers, calculator))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Of the model, read now.  ModelError where its source has none that is read; DataError for a damaged one."""
        return self.read_tokenizer()


def open_model(path: Path | str) -> Model:
    """The model at a path: a run (its last checkpoint), a checkpoint, a Hugging Face folder, a GGUF file, or a folder
    that ``save_quantized`` wrote, which is read whole.

    Names and shapes of all tensors are checked here; values of a folder or GGUF file are read later, by layer.
    Errors: ModelError for what is none of these, is damaged, or is of an architecture or type that is not read;
    CheckpointError and RunError for a run's.
    """
    path = Path(path)
    if path.suffix == ".gguf" and path.is_file():
        return _gguf(path)
    if path.suffix in _PICKLES and path.is_file():
        raise pickled(path)
    if not path.is_dir():
        what = "is no folder and no .gguf file" if path.exists() else "does not exist"
        raise ModelError(f"{path} {what}; name a run, a checkpoint, a Hugging Face folder or a GGUF file")
    step = _STEP.fullmatch(path.name)
    if step and (path / "state.json").is_file():
        return _of_run(RunFolder.open(path.parent.parent), int(step[1]))
    if not (path / "config.json").is_file():
        raise ModelError(f"{path} has no config.json; name a run, a checkpoint, a Hugging Face folder or a GGUF file")
    values = read_json(path / "config.json")
    if "quantization" in values and "decoder" in values:
        from qsim.post_training.files import open_quantized  # which makes models, as this does

        return open_quantized(path, values)
    return _of_run(RunFolder.open(path)) if "policy" in values else _hugging_face(path, values)


def _of_run(run: RunFolder, step: int | None = None) -> Model:
    steps = saved_steps(run.path)
    if step is None and not steps:
        raise CheckpointError(f"run {str(run.path)!r} has no checkpoint; train it with --record.checkpoint_every")
    checkpoint = load_checkpoint(run.path, steps[-1] if step is None else step)
    return Model(
        architecture="qsim",
        config=of_model(run.config.model),
        weights=ResidentWeights(parameters=checkpoint.state["parameters"]),
        source=run.path / "checkpoints" / f"step_{checkpoint.step}",
        read_tokenizer=partial(_tokenizer_of_run, run),
        run=run,
    )


def _tokenizer_of_run(run: RunFolder) -> Tokenizer:
    corpus = load_data(run.path)
    return tokenizer_named(corpus.tokenizer, corpus.tokenizer_model)


def _hugging_face(folder: Path, values: dict) -> Model:
    place = folder / "config.json"
    if "model_type" not in values:
        raise ModelError(f"{place} has no model_type; restore the key")
    architecture = architecture_named(HUGGING_FACE, values["model_type"], place)
    config = decoder_config(architecture, values, place)
    return Model(
        architecture=architecture.name,
        config=config,
        weights=FileWeights(config, architecture.tensors, open_safetensors(folder)),
        source=folder,
        read_tokenizer=partial(_tokenizer_in, folder),
    )


def _tokenizer_in(folder: Path) -> Tokenizer:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ModelError(f"{folder} has no tokenizer.json; give tokens, or put the model's beside it")
    return HuggingFaceTokenizer(model=file.read_bytes(), source=str(file))


def _gguf(path: Path) -> Model:
    file = GgufFile(path)
    architecture = architecture_named(GGUF, file.metadata.get("general.architecture"), path)
    table = file.shapes.get("token_embd.weight")
    if not table:
        raise ModelError(f"{path} has no tensor token_embd.weight; restore it")
    said = {"vocabulary": table[0], "tied": "output.weight" not in file.shapes}
    config = decoder_config(architecture, file.metadata | said, path)
    return Model(
        architecture=architecture.name,
        config=config,
        weights=FileWeights(config, architecture.tensors, file),
        source=path,
        read_tokenizer=partial(tokenizer_of, file),
    )
