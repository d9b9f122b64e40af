"""A decoder under a policy or a scheme, or torch's, as a benchmark calls it: a prompt at once, or token by token."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from precision import SCHEMES, QArray
from qsim.bench.torch_decoder import TorchDecoder
from qsim.decoder import KeyValueCache, decoder_forward
from qsim.decoder_config import DecoderConfig, layer_shapes, outer_shapes
from qsim.held_weights import HeldWeights, hold
from qsim.importing import Model, open_model
from qsim.post_training import PostTraining, calculator_for, quantize_model

DEFAULT = DecoderConfig(  # 28 million parameters
    layers=8,
    hidden=512,
    heads=8,
    kv_heads=4,
    head_size=64,
    intermediate=1408,
    vocabulary=8192,
    length=4096,
    norm="rmsnorm",
    activation="silu",
    gated=True,
    positions="rotary",
    biases=False,
    tied=True,
)
TORCH, HALF = "torch float32", "bf16"  # HALF: what quantized models are otherwise, too

Pass = Callable[[np.ndarray, Any], np.ndarray]  # tokens (1, T), a cache or None -> logits (T, V)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A contender as tables name it."""

    name: str
    executor: str
    weights_bytes: int


@dataclass(frozen=True, kw_only=True)
class Reader(Entry):
    """How a contender reads tokens, how a cache of its own begins, and one that holds the prompt continued."""

    read: Pass
    empty: Callable[[], Any]
    continued: Callable[[Any], Any]


def random_model(config: DecoderConfig) -> Model:
    """Normal weights of deviation 0.02, seed 0; gains are 1."""
    generator = np.random.default_rng(0)

    def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        return {
            name: np.ones(shape, np.float32)
            if name.endswith(".gain")
            else generator.normal(0, 0.02, shape).astype(np.float32)
            for name, shape in shapes.items()
        }

    layers = tuple(drawn(layer_shapes(config)) for _ in range(config.layers))
    weights = HeldWeights(outside=drawn(outer_shapes(config)), layers=layers)
    return Model(architecture="random", config=config, weights=weights, source=Path(), read_tokenizer=_no_tokenizer)


def _no_tokenizer() -> Any:
    raise ValueError("a random model has no tokenizer; give it tokens")


def opened(source: Path | None) -> Model:
    return random_model(DEFAULT) if source is None else open_model(source)


def count(config: DecoderConfig) -> int:
    """Parameters."""
    of_layer = sum(int(np.prod(shape)) for shape in layer_shapes(config).values())
    return config.layers * of_layer + sum(int(np.prod(shape)) for shape in outer_shapes(config).values())


def reader(model: Model, policy: str, executor: str) -> Reader:
    """Weights held in the working format; those of quantized layers as codes."""
    if policy in SCHEMES:
        how = PostTraining(scheme=policy, working="bf16", dequantize_to="bf16")
        model, policy_of_rest = quantize_model(model, how), HALF
    else:
        policy_of_rest = policy
    calculator = calculator_for(model, policy_of_rest, executor)
    weights = hold(model.weights, model.config.layers, calculator)

    def read(tokens: np.ndarray, cache: KeyValueCache | None) -> np.ndarray:
        return np.asarray(decoder_forward(calculator, model.config, weights, tokens, cache=cache))

    return Reader(
        name=policy,
        executor=executor,
        read=read,
        empty=KeyValueCache,
        continued=lambda cache: KeyValueCache(layers=[dict(layer) for layer in cache.layers]),
        weights_bytes=sum(_bytes(w) for part in (weights.outside, *weights.layers) for w in part.values()),
    )


def _bytes(w: Any) -> int:
    return w.codes.nbytes + w.scale.nbytes if isinstance(w, QArray) else int(w.nbytes)


def torch_entry(config: DecoderConfig) -> Entry:
    return Entry(name=TORCH, executor="torch", weights_bytes=4 * count(config))


def torch_reader(model: Model, threads: int) -> Reader:
    decoder = TorchDecoder(model.config, model.weights, threads)
    entry = torch_entry(model.config)
    return Reader(**vars(entry), read=decoder, empty=decoder.empty_cache, continued=copy.deepcopy)


@dataclass(kw_only=True)
class Work:
    """The two calls that are timed of each contender."""

    reader: Reader
    prompt: np.ndarray  # (1, T)
    new: int
    _cache: Any = field(init=False)

    def __post_init__(self) -> None:
        self._cache = self.reader.empty()
        self.reader.read(self.prompt, self._cache)

    @property
    def entry(self) -> Entry:
        return self.reader

    def whole(self) -> np.ndarray:
        return self.reader.read(self.prompt, None)

    def by_token(self) -> np.ndarray:
        """The most probable next token, again and again, behind the prompt."""
        cache = self.reader.continued(self._cache)
        token = self.prompt[:, -1:]
        for _ in range(self.new):
            logits = self.reader.read(token, cache)
            token = logits[-1:].argmax(axis=-1).astype(np.int32)[None]
        return token
