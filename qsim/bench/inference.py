"""Tokens a second of a decoder under policies, a prompt at once and token by token, against float32 and torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from precision import SCHEMES, QArray
from qsim.bench import torch_decoder
from qsim.bench.gemm import PAUSE
from qsim.bench.measurement import Comparison, Contender, Timing, measure
from qsim.bench.threads import limited
from qsim.bench.torch_decoder import TorchDecoder
from qsim.decoder import KeyValueCache, decoder_forward
from qsim.decoder_config import DecoderConfig, layer_shapes, outer_shapes
from qsim.held_weights import HeldWeights, hold
from qsim.importing import Model, open_model
from qsim.policy import parse_policy
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
TORCH, FLOAT32, HALF = "torch float32", "fp32", "bf16"  # HALF: what quantized models are otherwise, too
POLICIES = (FLOAT32, HALF, "fp16", "int8_vectorwise")
TORCH_BAR = 0.5  # of torch's tokens a second: float32 whose order of sums is stated
BUDGET = 20.0  # seconds of a contender's calls
DATA = "one sequence of random tokens, seed 0; weights in memory, rounded to the working format before"

Row = dict[str, Any]
Pass = Callable[[np.ndarray, Any], np.ndarray]  # tokens (1, T), a cache or None -> logits (T, V)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A contender: how it reads tokens, how a cache of its own begins, and one that holds the prompt continued."""

    name: str
    executor: str
    read: Pass
    empty: Callable[[], Any]
    continued: Callable[[Any], Any]
    weights_bytes: int


def entries(policies: Sequence[str], executors: Sequence[str]) -> list[tuple[str, str]]:
    """(policy, executor) of every one, on Numba where none is named.  ValueError for an unknown policy."""
    chosen = [(policy, executor) for policy in policies or POLICIES for executor in executors or ("numba",)]
    for policy, _ in chosen:
        if policy not in SCHEMES:
            parse_policy(policy)
    return list(dict.fromkeys(chosen))


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


def torch_reader(model: Model, threads: int) -> Reader:
    decoder = TorchDecoder(model.config, model.weights, threads)
    return Reader(
        name=TORCH,
        executor="torch",
        read=decoder,
        empty=decoder.empty_cache,
        continued=copy.deepcopy,
        weights_bytes=4 * count(model.config),
    )


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


def rows(
    model: Model,
    chosen: Sequence[tuple[str, str]],
    *,
    tokens: int,
    new: int,
    repeats: int,
    threads: int,
) -> list[Row]:
    """Two rows a contender, all measured in turns; transformers' Llama is among them where it is installed and the
    model is of its type.

    Errors: ValueError for more positions than the model has.
    """
    config = model.config
    if tokens + new > config.length:
        raise ValueError(
            f"{tokens} tokens and {new} new ones are more than the model's {config.length} positions; "
            "give fewer by --tokens and --new"
        )
    prompt = np.random.default_rng(0).integers(0, config.vocabulary, (1, tokens), np.int32)
    with limited(threads):
        readers = [reader(model, *one) for one in chosen]
        if torch_decoder.installed() and torch_decoder.takes(config):
            readers.append(torch_reader(model, threads))
        work = [Work(reader=one, prompt=prompt, new=new) for one in readers]
        found = []
        for phase, each, calls in (
            ("prompt", tokens, [one.whole for one in work]),
            ("decoding", new, [one.by_token for one in work]),
        ):
            timings = measure([_contender(call, each) for call in calls], repeats, pause=PAUSE, budget=BUDGET)
            found += _compared(phase, each, list(zip(readers, timings, strict=True)))
    return found


def _contender(call: Callable[[], np.ndarray], tokens: int) -> Contender:
    return Contender(name="pass", call=call, values=tokens)


def _compared(phase: str, tokens: int, timed: list[tuple[Reader, Timing]]) -> list[Row]:
    best = {(one.name, one.executor): timing.best for one, timing in timed}
    return [
        {
            "phase": phase,
            "contender": one.name,
            "executor": one.executor,
            "tokens": tokens,
            "rounds": len(timing.samples),
            "seconds_best": timing.best,
            "seconds_median": timing.median,
            "tokens_per_second": tokens / timing.best,
            "weights_bytes": one.weights_bytes,
            "speed": {
                "fp32": _speed(timing.best, best.get((FLOAT32, one.executor), best.get((FLOAT32, "numba")))),
                "bf16": _speed(timing.best, best.get((HALF, one.executor), best.get((HALF, "numba")))),
                "torch": _speed(timing.best, best.get((TORCH, "torch"))),
            },
            **_judged(phase, one, timing.best, best.get((TORCH, "torch"))),
        }
        for one, timing in timed
    ]


def _speed(own: float, other: float | None) -> float | None:
    return None if other is None else other / own


def _judged(phase: str, one: Reader, own: float, torch: float | None) -> Row:
    """The bar of float32 on Numba against torch, for whole passes."""
    if torch is None or (phase, one.name, one.executor) != ("prompt", FLOAT32, "numba"):
        return {"bar": None, "met": None}
    comparison = Comparison(quantity="speed", other=TORCH, limit=TORCH_BAR)
    return {"bar": TORCH_BAR, "met": comparison.met(comparison.ratio(own, torch))}
