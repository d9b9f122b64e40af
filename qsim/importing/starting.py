"""Training that starts from the weights of a model: which of them the study's GPT is, and its parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from qsim import config as configuration
from qsim.config import ConfigError, DataConfig, ModelConfig, RunConfig
from qsim.decoder import ResidentWeights
from qsim.decoder_config import DecoderConfig, of_model
from qsim.hashing import tree_hash
from qsim.importing.opening import Model
from qsim.importing.refusal import ModelError
from qsim.position import FirstWeights
from qsim.run_data import tokenizer_file
from qsim.runs import RunFolder

_SIZES = ("layers", "hidden", "heads", "length", "vocabulary", "positions", "position_scale", "tied")


def first_weights(model: Model) -> FirstWeights:
    """The parameters of a model as training starts from them, every bit of a float32 file, and where they are from.

    Errors: ModelError for a decoder that is not the study's GPT: another norm, activation, layout or positions.
    """
    size = model_config(model)
    weights = model.weights
    if isinstance(weights, ResidentWeights):
        parameters = dict(weights.parameters)
    else:
        layers = [weights.layer(i) for i in range(size.layers)]
        stacked = {f"blocks.{name}": np.stack([layer[name] for layer in layers]) for name in layers[0]}
        parameters = weights.outer() | stacked
    parameters = {name: np.asarray(w, np.float32) for name, w in parameters.items()}
    return FirstWeights(parameters=parameters, source=str(model.source), sha256=tree_hash(parameters))


def model_config(model: Model) -> ModelConfig:
    """Sizes of the study's GPT that is this decoder, without dropout.  ModelError where none is."""
    found = model.config
    if model.run is not None:
        return dataclasses.replace(model.run.config.model, dropout=0.0, recompute=False)
    if found.positions not in ("learned", "sinusoidal", "alibi"):
        raise ModelError(f"{model.source} has {found.positions} positions, which training has not; {_REMEDY}")
    sizes: dict[str, Any] = {name: getattr(found, name) for name in _SIZES}
    wanted = ModelConfig(**sizes, layernorm_epsilon=found.epsilon)
    differing = differences(found, of_model(wanted))
    if differing:
        name, (theirs, ours) = next(iter(differing.items()))
        raise ModelError(f"{model.source} has {name} {theirs!r} where training has {ours!r}; {_REMEDY}")
    return wanted


_REMEDY = "start from a run of this project or from an export of one"


def differences(a: DecoderConfig, b: DecoderConfig) -> dict[str, tuple[Any, Any]]:
    """Fields that differ, with both values."""
    pairs = {field.name: (getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def starting_config(model: Model, config: RunConfig, asked: Iterable[tuple[str, Any]]) -> RunConfig:
    """The configuration with the sizes of the model, and its tokenizer where it is a run's; what is asked prevails.

    Errors: ConfigError where what is asked changes a size.
    """
    sizes = dataclasses.replace(model_config(model), dropout=config.model.dropout, recompute=config.model.recompute)
    data = config.data if model.run is None else _data_of(model.run)
    changed = configuration.override_all(dataclasses.replace(config, model=sizes, data=data), asked)
    differing = differences(of_model(sizes), of_model(changed.model))
    if differing:
        name, (theirs, ours) = next(iter(differing.items()))
        raise ConfigError(f"model.{name} is asked to be {ours}, and {model.source} has {theirs}; leave it out")
    return changed


def _data_of(run: RunFolder) -> DataConfig:
    """Batches as the run makes them, its tokenizer named by the file that lies in its folder."""
    file = tokenizer_file(run.path)
    return dataclasses.replace(run.config.data, tokenizer_model=None if file is None else str(file))
