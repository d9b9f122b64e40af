"""What a model is, in words and numbers, without reading its values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from qsim.decoder import ResidentWeights
from qsim.decoder_config import DecoderConfig, layer_shapes, outer_shapes
from qsim.importing.opening import Model
from qsim.importing.refusal import ModelError
from qsim.importing.weights import FileWeights
from qsim.post_training.weights import QuantizedWeights
from qsim.text_sources import DataError


@dataclass(frozen=True, kw_only=True)
class TypeBytes:
    """How many tensors of a type there are, and their bytes in the file; of a run, in memory."""

    type: str
    tensors: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class TokenizerFacts:
    """kind and tokens: None where there is no tokenizer that is read.  said: whether it fits, in words."""

    kind: str | None
    tokens: int | None
    fits: bool
    said: str


@dataclass(frozen=True, kw_only=True)
class Description:
    source: str
    architecture: str
    config: DecoderConfig
    parameters: int
    types: tuple[TypeBytes, ...]
    tokenizer: TokenizerFacts


def describe(model: Model) -> Description:
    """parameters: those of the decoder, a table that is its own head counted once."""
    config = model.config
    outer, layer = (sum(map(math.prod, shapes.values())) for shapes in (outer_shapes(config), layer_shapes(config)))
    return Description(
        source=str(model.source),
        architecture=model.architecture,
        config=config,
        parameters=outer + config.layers * layer,
        types=tuple(_types(_tensors(model))),
        tokenizer=tokenizer_facts(model),
    )


def tokenizer_facts(model: Model) -> TokenizerFacts:
    """A tokenizer fits whose every token the model has a row for."""
    try:
        kind, tokens = model.tokenizer.name, model.tokenizer.vocabulary_size
    except (ModelError, DataError) as error:
        return TokenizerFacts(kind=None, tokens=None, fits=False, said=str(error))
    rows = model.config.vocabulary
    fits = tokens <= rows
    said = f"{kind}, {tokens} tokens for {rows} rows: {'it fits' if fits else 'it does not fit'}"
    return TokenizerFacts(kind=kind, tokens=tokens, fits=fits, said=said)


def _tensors(model: Model) -> Iterable[tuple[str, int]]:
    """(type, bytes) of each."""
    weights = model.weights
    if isinstance(weights, FileWeights):
        return weights.types()
    if isinstance(weights, ResidentWeights):
        return [(w.dtype.name, w.nbytes) for w in weights.parameters.values()]
    if isinstance(weights, QuantizedWeights):
        return [(w.dtype.name, w.nbytes) for held in weights.parts() for w in held.values()]
    raise TypeError(f"weights of {type(weights).__name__} are of no model that was opened")


def _types(tensors: Iterable[tuple[str, int]]) -> Iterable[TypeBytes]:
    found: dict[str, list[int]] = {}
    for kind, size in tensors:
        found.setdefault(kind, []).append(size)
    ordered = sorted(found.items(), key=lambda pair: (-sum(pair[1]), pair[0]))
    return (TypeBytes(type=kind, tensors=len(sizes), bytes=sum(sizes)) for kind, sizes in ordered)
