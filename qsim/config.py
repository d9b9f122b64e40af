"""What a run is: frozen, checked, keyword-only records, and the named presets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

Gelu = Literal["erf"]
Positions = Literal["learned", "sinusoidal", "alibi"]
Schedule = Literal["cosine", "constant", "wsd"]


class ConfigError(ValueError):
    """A configuration that cannot be run, in one sentence."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A pre-LayerNorm decoder.

    Parameters: L (12 h^2 + 13 h) + 2 V h + T h + 2 h.
    positions: ``learned``, a parameter (T, h); ``sinusoidal`` and ``alibi`` (see ``qsim.positions``) are constants
    and T h is not counted.  position_scale: factor on the sinusoidal table, whose root mean square is 0.71 at 1 and
    which token rows, drawn with a deviation of 0.02, are then lost beside; 2^-5 puts it where learned rows begin.
    tied: the matrix of the logits is the transposed token table, V h is counted once, and
    the table's gradient is that of the embedding plus that of the logits, added in float32.  recompute: the backward
    pass computes a block's forward pass again from its input instead of keeping what it needs; the same bits.
    """

    layers: int = 2
    hidden: int = 64
    heads: int = 2
    length: int = 64
    vocabulary: int = 256
    dropout: float = 0.0
    gelu: Gelu = "erf"
    positions: Positions = "learned"
    position_scale: float = 1.0
    layernorm_epsilon: float = 1e-5
    tied: bool = False
    recompute: bool = False

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "length", "vocabulary"):
            _require(getattr(self, name) >= 1, f"model.{name} is {getattr(self, name)}; it must be at least 1")
        _require(
            self.hidden % self.heads == 0,
            f"model.hidden {self.hidden} is not divisible by model.heads {self.heads}; choose heads that divide it",
        )
        _require(0 <= self.dropout < 1, f"model.dropout is {self.dropout}; it must lie in 0 <= p < 1")
        _require(
            0 < self.layernorm_epsilon < math.inf,
            f"model.layernorm_epsilon is {self.layernorm_epsilon}; it must be positive and finite",
        )
        _require(
            0 < self.position_scale <= 2**64,
            f"model.position_scale is {self.position_scale}; it must be positive and at most 2^64",
        )
        _require(
            self.position_scale == 1 or self.positions == "sinusoidal",
            f"model.position_scale is {self.position_scale} and model.positions {self.positions!r}; "
            "it scales the sinusoidal table, set it with model.positions=sinusoidal",
        )

    @property
    def parameters(self) -> int:
        h, tables = self.hidden, 1 if self.tied else 2
        positions = self.length if self.positions == "learned" else 0
        return self.layers * (12 * h * h + 13 * h) + tables * self.vocabulary * h + positions * h + 2 * h


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with warm-up and decay.

    learning_rate(t) = learning_rate t / warmup_steps up to warmup_steps, then as ``qsim.schedules`` says: half a
    cosine to final_fraction of it at step decay_steps, constant, or ``wsd``, stable and then linear over the last
    decay_fraction of the steps.  decay_steps: None for the run's last step; a replay of a run's first steps names
    the run's.  clip: global norm limit, None for none.
    """

    learning_rate: float = 2e-3
    warmup_steps: int = 30
    schedule: Schedule = "cosine"
    decay_steps: int | None = None
    final_fraction: float = 0.1
    decay_fraction: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    decay_gains_and_biases: bool = False
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epsilon"):
            value = getattr(self, name)
            _require(0 < value < math.inf, f"optimizer.{name} is {value}; it must be positive and finite")
        _require(self.warmup_steps >= 0, f"optimizer.warmup_steps is {self.warmup_steps}; it must not be negative")
        _require(
            self.decay_steps is None or self.decay_steps >= 1,
            f"optimizer.decay_steps is {self.decay_steps}; use a step of at least 1 or null",
        )
        _require(
            0 <= self.final_fraction <= 1,
            f"optimizer.final_fraction is {self.final_fraction}; it must lie in 0 <= fraction <= 1",
        )
        _require(
            0 < self.decay_fraction <= 1,
            f"optimizer.decay_fraction is {self.decay_fraction}; it must lie in 0 < fraction <= 1",
        )
        _require(
            0 <= self.weight_decay < math.inf,
            f"optimizer.weight_decay is {self.weight_decay}; it must be finite and not negative",
        )
        _require(self.clip is None or self.clip > 0, f"optimizer.clip is {self.clip}; use a positive norm or null")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"optimizer.{name} is {value}; it must lie in 0 <= beta < 1")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Tokenizer and batches.

    tokenizer: ``bytes``, ``sentencepiece``, or ``none`` for ``.bin`` files of tokens, whose width token_dtype states
    or ``auto`` infers (``qsim.token_files``).  tokenizer_model: a SentencePiece model file to load instead of
    training one.  order: ``random``, windows drawn anew with replacement, or ``epochs``, every window once before
    any comes again (``qsim.data``).
    reduction_chunks: contiguous parts of the batch that gradients are summed in.  accumulation: parts, each of as
    many whole chunks, that a step computes one after another; it divides reduction_chunks and changes no bit, except
    under schemes whose scale or choice of outliers looks at all rows: there it is part of what is computed, and
    a scale is that of a contiguous part of the whole batch, however many devices share it.
    """

    tokenizer: Literal["bytes", "sentencepiece", "none"] = "bytes"
    tokenizer_model: str | None = None
    token_dtype: Literal["auto", "uint16", "uint32"] = "auto"
    order: Literal["random", "epochs"] = "random"
    batch_size: int = 8
    reduction_chunks: int = 8
    accumulation: int = 1
    held_out: float = 0.1
    validation_batches: int = 8

    def __post_init__(self) -> None:
        _require(self.batch_size >= 1, f"data.batch_size is {self.batch_size}; it must be at least 1")
        _require(
            self.reduction_chunks >= 1 and self.batch_size % self.reduction_chunks == 0,
            f"data.reduction_chunks {self.reduction_chunks} does not divide data.batch_size {self.batch_size}; "
            "choose a divisor",
        )
        _require(
            self.accumulation >= 1 and self.reduction_chunks % self.accumulation == 0,
            f"data.accumulation {self.accumulation} does not divide data.reduction_chunks {self.reduction_chunks}; "
            "choose a divisor",
        )
        _require(
            self.validation_batches >= 1,
            f"data.validation_batches is {self.validation_batches}; it must be at least 1",
        )
        _require(0 < self.held_out < 1, f"data.held_out is {self.held_out}; it must lie between 0 and 1")


CheckpointForm = Literal["safetensors", "orbax"]


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """How often what is written: statistics and checkpoints every so many steps (0: never), hashes likewise.

    checkpoints: one file of ``safetensors``, or ``orbax``, which every process writes its own shards of in the
    background (``qsim.checkpointing``).
    """

    statistics_every: int = 25
    checkpoint_every: int = 100
    hash_every: int = 1
    checkpoints: CheckpointForm = "safetensors"

    def __post_init__(self) -> None:
        for name in ("statistics_every", "checkpoint_every", "hash_every"):
            _require(getattr(self, name) >= 0, f"record.{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a run depends on, apart from the data and the arithmetic."""

    preset: str = "tiny"
    seed: int = 0
    steps: int = 300
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data: DataConfig = field(default_factory=DataConfig)
    record: RecordConfig = field(default_factory=RecordConfig)

    def __post_init__(self) -> None:
        _require(self.steps >= 1, f"steps is {self.steps}; a run has at least 1")
        _require(0 <= self.seed < 1 << 64, f"seed {self.seed} is outside 0 <= seed < 2^64")


def _preset(name: str, lr: float, batch: int, tokenizer: str, steps: int, **model: Any) -> RunConfig:
    return RunConfig(
        preset=name,
        steps=steps,
        model=ModelConfig(**model),
        optimizer=OptimizerConfig(learning_rate=lr, warmup_steps=max(1, steps // 10)),
        data=DataConfig(batch_size=batch, tokenizer=tokenizer),  # type: ignore[arg-type]
    )


PRESETS: dict[str, RunConfig] = {
    "tiny": _preset("tiny", 2e-3, 8, "bytes", 300, layers=2, hidden=64, heads=2, length=64, vocabulary=256),
    "small": _preset(
        "small", 1e-3, 16, "sentencepiece", 2000, layers=4, hidden=128, heads=4, length=128, vocabulary=2048
    ),
    "medium": _preset(
        "medium",
        6e-4,
        64,
        "sentencepiece",
        20000,
        layers=12,
        hidden=512,
        heads=8,
        length=512,
        vocabulary=8192,
    ),
}


def preset(name: str) -> RunConfig:
    """The preset of that name.  ConfigError, naming the known ones, otherwise."""
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; known presets: {', '.join(PRESETS)}")
    return PRESETS[name]


def override(config: Any, dotted: str, value: Any) -> Any:
    """The record with one field replaced, named by its dotted path: ``override(c, "model.dropout", 0.1)``.

    Errors: ConfigError for an unknown key or a value of the wrong type.
    """
    return override_all(config, [(dotted, value)])


def override_all(config: Any, pairs: Iterable[tuple[str, Any]]) -> Any:
    """Fields replaced together, the last of a name winning: only the outcome has to be valid, not the way there.

    Errors: as ``override``.
    """
    return _replaced(config, pairs, "")


def _replaced(config: Any, pairs: Iterable[tuple[str, Any]], prefix: str) -> Any:
    known = [f.name for f in dataclasses.fields(config)]
    values: dict[str, Any] = {}
    below: dict[str, list[tuple[str, Any]]] = {}
    for key, value in pairs:
        name, _, rest = str(key).partition(".")
        dotted = f"{prefix}{key}"
        if name not in known:
            raise ConfigError(f"unknown configuration key {dotted!r}; known here: {', '.join(known)}")
        if dataclasses.is_dataclass(getattr(config, name)):
            below.setdefault(name, []).extend([(rest, value)] if rest else _items(value, dotted))
        elif rest:
            raise ConfigError(f"configuration key {dotted!r} goes below {name!r}, which is a value; name {name!r}")
        else:
            values[name] = _checked(config, name, value, dotted)
    records = {name: _replaced(getattr(config, name), pairs, f"{prefix}{name}.") for name, pairs in below.items()}
    return dataclasses.replace(config, **values, **records)


def _items(values: Any, dotted: str) -> Iterable[tuple[str, Any]]:
    if not isinstance(values, dict):
        raise ConfigError(f"configuration key {dotted!r} holds several keys; give a mapping, not {values!r}")
    return values.items()


def _checked(config: Any, name: str, value: Any, dotted: str) -> Any:
    """value as the field's type; whole numbers serve as floats, nothing else is converted."""
    hint = get_type_hints(type(config))[name]
    if get_origin(hint) is Literal:
        allowed = get_args(hint)
        _require(value in allowed, f"{dotted} is {value!r}; choose one of {', '.join(map(str, allowed))}")
        return value
    types = get_args(hint) or (hint,)
    if float in types and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    fits = any(type(value) is t for t in types)
    names = " or ".join("null" if t is type(None) else t.__name__ for t in types)
    _require(fits, f"{dotted} is {value!r}; it must be of type {names}")
    return value


def as_json(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config)


def from_json(values: dict[str, Any]) -> RunConfig:
    """The run configuration that ``as_json`` wrote; unknown keys are an error."""
    return override_all(RunConfig(), values.items())


# The study's family, its shapes inferred from the parameter counts, and two sizes below them.  Learning rates are
# GPT-3's (Brown et al. 2020, table 2.1), declared defaults: the study does not give its own.
_STUDY = {
    "125m": (6e-4, 12, 768, 12, 1024),
    "410m": (3e-4, 24, 1024, 16, 2048),
    "1b": (2e-4, 24, 2048, 16, 2048),
    "6b": (1.2e-4, 28, 4096, 32, 2048),
    "13b": (1e-4, 40, 5120, 40, 2048),
    "52b": (0.8e-4, 64, 8192, 64, 2048),
}
PRESETS |= {
    name: override_all(
        _preset(
            name,
            lr,
            256,
            "sentencepiece",
            75_000,
            layers=layers,
            hidden=hidden,
            heads=heads,
            length=length,
            vocabulary=51_200,
        ),
        [("optimizer.warmup_steps", 1500), ("data.accumulation", 8), ("record.hash_every", 100)],
    )
    for name, (lr, layers, hidden, heads, length) in _STUDY.items()
}
