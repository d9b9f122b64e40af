"""Configuration: sizes that follow from it, and refusals in one sentence."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from small_runs import assert_sentence, small_config

from qsim import config as configuration
from qsim.config import (
    PRESETS,
    ConfigError,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    RecordConfig,
    RunConfig,
    as_json,
    from_json,
    override,
    override_all,
    preset,
)
from qsim.model import initial_parameters, parameter_shapes

# layers, hidden, heads, length, vocabulary, batch
PUBLISHED = {
    "tiny": (2, 64, 2, 64, 256, 8),
    "small": (4, 128, 4, 128, 2048, 16),
    "medium": (12, 512, 8, 512, 8192, 64),
    "125m": (12, 768, 12, 1024, 51200, 256),
    "410m": (24, 1024, 16, 2048, 51200, 256),
    "1b": (24, 2048, 16, 2048, 51200, 256),
    "6b": (28, 4096, 32, 2048, 51200, 256),
    "13b": (40, 5120, 40, 2048, 51200, 256),
    "52b": (64, 8192, 64, 2048, 51200, 256),
}


def model(layers: int, hidden: int, heads: int, length: int, vocabulary: int) -> ModelConfig:
    return ModelConfig(layers=layers, hidden=hidden, heads=heads, length=length, vocabulary=vocabulary)


def flat(values: dict[str, Any]) -> dict[str, Any]:
    """Nested records by dotted path."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = flat(value) if isinstance(value, dict) else None
        found |= {name: value} if inner is None else {f"{name}.{key}": v for key, v in inner.items()}
    return found


# Presets and sizes


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_as_published(name: str) -> None:
    c = preset(name)
    m = c.model
    assert (m.layers, m.hidden, m.heads, m.length, m.vocabulary, c.data.batch_size) == PUBLISHED[name]
    assert c.preset == name
    assert c.optimizer.warmup_steps < c.steps


def test_tiny_is_the_default() -> None:
    assert preset("tiny") == RunConfig()


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        preset("huge")
    assert_sentence(error.value, "'huge'", *PRESETS)


@pytest.mark.parametrize(("name", "millions"), [("410m", 409.3), ("6b", 6066), ("13b", 13120), ("52b", 52402)])
def test_parameter_counts_of_the_study(name: str, millions: float) -> None:
    """The study's table, to the digits it prints: 0.05 of a million at 410m, half a million above."""
    count = preset(name).model.parameters
    assert abs(count / 1e6 - millions) <= (0.05 if millions < 1000 else 0.5)


@pytest.mark.parametrize(
    "m",
    [c.model for c in PRESETS.values()] + [model(1, 1, 1, 1, 1), model(3, 15, 5, 7, 11)],  # learned, untied
    ids=lambda m: f"{m.layers}x{m.hidden}",
)
def test_parameter_count_is_that_of_the_shapes_and_of_the_formula(m: ModelConfig) -> None:
    depth, h, length, vocabulary = m.layers, m.hidden, m.length, m.vocabulary
    formula = depth * (12 * h**2 + 13 * h) + 2 * vocabulary * h + length * h + 2 * h
    assert m.parameters == formula
    assert sum(math.prod(shape) for shape in parameter_shapes(m).values()) == formula


def test_initial_parameters_have_the_shapes() -> None:
    m = model(2, 6, 3, 5, 7)
    assert {name: w.shape for name, w in initial_parameters(m, 0).items()} == parameter_shapes(m)


# Overrides


@pytest.mark.parametrize(
    ("dotted", "value", "expected"),
    [
        ("steps", 7, 7),
        ("seed", (1 << 64) - 1, (1 << 64) - 1),
        ("model.dropout", 0.5, 0.5),
        ("model.dropout", 0, 0.0),  # whole numbers serve as floats
        ("optimizer.clip", None, None),
        ("optimizer.clip", 2, 2.0),
        ("optimizer.schedule", "constant", "constant"),
        ("optimizer.schedule", "wsd", "wsd"),
        ("optimizer.decay_fraction", 1, 1.0),
        ("model.positions", "alibi", "alibi"),
        ("model.tied", True, True),
        ("model.recompute", True, True),
        ("data.accumulation", 4, 4),
        ("optimizer.decay_gains_and_biases", True, True),
        ("optimizer.decay_steps", 9, 9),
        ("data.tokenizer", "sentencepiece", "sentencepiece"),
        ("record.hash_every", 0, 0),
    ],
)
def test_override_replaces_one_field(dotted: str, value: Any, expected: Any) -> None:
    before, after = flat(as_json(RunConfig())), flat(as_json(override(RunConfig(), dotted, value)))
    assert (type(after[dotted]), after[dotted]) == (type(expected), expected)
    assert after == before | {dotted: expected}


def test_override_takes_a_mapping() -> None:
    changed = override(RunConfig(), "model", {"hidden": 15, "heads": 5})
    assert (changed.model.hidden, changed.model.heads) == (15, 5)


@pytest.mark.parametrize("order", [1, -1])
def test_overrides_are_checked_together(order: int) -> None:
    """Neither 15 hidden in the default 2 heads nor 5 heads in the default 64 hidden is valid alone."""
    pairs = [("model.hidden", 15), ("model.heads", 5), ("data.batch_size", 3), ("data.reduction_chunks", 3)]
    changed = override_all(RunConfig(), pairs[::order])
    assert (changed.model.hidden, changed.model.heads, changed.data.batch_size) == (15, 5, 3)


def test_the_last_of_equal_overrides_counts() -> None:
    pairs = [("model", {"layers": 3, "hidden": 32}), ("steps", 5), ("model.layers", 4), ("steps", 6)]
    changed = override_all(RunConfig(), pairs)
    assert (changed.model.layers, changed.model.hidden, changed.steps) == (4, 32, 6)


@pytest.mark.parametrize("dotted", ["stepz", "model.width", "optimiser.clip", "Steps", "", ".steps"])
def test_unknown_keys_are_refused(dotted: str) -> None:
    with pytest.raises(ConfigError) as error:
        override(RunConfig(), dotted, 1)
    assert_sentence(error.value, repr(dotted))


def test_unknown_key_names_what_is_known_there() -> None:
    with pytest.raises(ConfigError) as error:
        override(RunConfig(), "model.width", 1)
    assert_sentence(error.value, "'model.width'", *(field.name for field in dataclasses.fields(ModelConfig)))


@pytest.mark.parametrize("dotted", ["steps.more", "model.layers.first"])
def test_a_path_below_a_value_is_refused(dotted: str) -> None:
    with pytest.raises(ConfigError) as error:
        override(RunConfig(), dotted, 1)
    assert_sentence(error.value, repr(dotted), "which is a value")


@pytest.mark.parametrize(
    ("dotted", "value", "wanted"),
    [
        ("steps", 2.0, "int"),
        ("steps", "2", "int"),
        ("steps", True, "int"),
        ("steps", None, "int"),
        ("model.layers", [2], "int"),
        ("model.dropout", "0.1", "float"),
        ("model.dropout", False, "float"),
        ("model.dropout", None, "float"),
        ("optimizer.clip", "none", "float or null"),
        ("optimizer.decay_steps", 1.5, "int or null"),
        ("optimizer.decay_gains_and_biases", 1, "bool"),
        ("optimizer.schedule", "linear", "cosine, constant, wsd"),
        ("optimizer.schedule", ["cosine"], "cosine, constant"),
        ("data.tokenizer", "words", "bytes, sentencepiece"),
        ("model.gelu", "tanh", "erf"),
        ("model.positions", "rotary", "learned, sinusoidal, alibi"),
        ("model.recompute", 1, "bool"),
        ("preset", 3, "str"),
        ("model", 3, "give a mapping"),
        ("model", None, "give a mapping"),
    ],
)
def test_wrong_types_are_refused(dotted: str, value: Any, wanted: str) -> None:
    with pytest.raises(ConfigError) as error:
        override(RunConfig(), dotted, value)
    assert_sentence(error.value, dotted, repr(value), wanted)


@pytest.mark.parametrize(
    ("dotted", "value", "remedy"),
    [
        *((f"model.{name}", 0, "at least 1") for name in ("layers", "hidden", "heads", "length", "vocabulary")),
        ("model.hidden", 63, "choose heads that divide it"),
        ("model.heads", 3, "choose heads that divide it"),
        ("model.dropout", 1.0, "0 <= p < 1"),
        ("model.dropout", -0.1, "0 <= p < 1"),
        ("model.dropout", math.nan, "0 <= p < 1"),
        ("model.layernorm_epsilon", 0.0, "positive"),
        ("model.position_scale", 0.0, "positive and at most 2^64"),
        ("model.position_scale", math.nan, "positive and at most 2^64"),
        ("model.position_scale", 0.5, "set it with model.positions=sinusoidal"),
        ("optimizer.learning_rate", 0.0, "positive"),
        ("optimizer.learning_rate", math.inf, "finite"),
        ("optimizer.learning_rate", math.nan, "positive"),
        ("optimizer.warmup_steps", -1, "negative"),
        ("optimizer.decay_steps", 0, "at least 1"),
        ("optimizer.final_fraction", 1.5, "0 <= fraction <= 1"),
        ("optimizer.beta1", 1.0, "0 <= beta < 1"),
        ("optimizer.beta2", -0.5, "0 <= beta < 1"),
        ("optimizer.epsilon", 0.0, "positive"),
        ("optimizer.weight_decay", -0.1, "not negative"),
        ("optimizer.weight_decay", math.nan, "finite"),
        ("optimizer.clip", 0.0, "positive norm or null"),
        ("data.batch_size", 0, "at least 1"),
        ("data.reduction_chunks", 3, "choose a divisor"),
        ("data.reduction_chunks", 0, "choose a divisor"),
        ("data.accumulation", 3, "choose a divisor"),
        ("data.accumulation", 0, "choose a divisor"),
        ("optimizer.decay_fraction", 0.0, "0 < fraction <= 1"),
        ("optimizer.decay_fraction", 1.5, "0 < fraction <= 1"),
        ("data.held_out", 0.0, "between 0 and 1"),
        ("data.held_out", 1.0, "between 0 and 1"),
        ("data.validation_batches", 0, "at least 1"),
        ("record.statistics_every", -1, "negative"),
        ("record.checkpoint_every", -1, "negative"),
        ("record.hash_every", -1, "negative"),
        ("steps", 0, "at least 1"),
        ("seed", -1, "0 <= seed < 2^64"),
        ("seed", 1 << 64, "0 <= seed < 2^64"),
    ],
)
def test_invalid_values_are_refused(dotted: str, value: Any, remedy: str) -> None:
    with pytest.raises(ConfigError) as error:
        override(RunConfig(), dotted, value)
    assert_sentence(error.value, dotted, str(value), remedy)


def test_invalid_values_are_refused_on_creation() -> None:
    for make in (
        lambda: ModelConfig(layers=-2),
        lambda: OptimizerConfig(beta1=2.0),
        lambda: DataConfig(reduction_chunks=5),
        lambda: RecordConfig(hash_every=-1),
        lambda: RunConfig(steps=-3),
    ):
        with pytest.raises(ConfigError) as error:
            make()
        assert_sentence(error.value, "; ")


# Records


@pytest.mark.parametrize("record", [RunConfig(), ModelConfig(), OptimizerConfig(), DataConfig(), RecordConfig()])
def test_records_are_frozen_and_keyword_only(record: Any) -> None:
    first = dataclasses.fields(record)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, first, getattr(record, first))
    with pytest.raises(TypeError, match="positional"):
        type(record)(getattr(record, first))


@pytest.mark.parametrize(
    "config",
    [
        *PRESETS.values(),
        small_config(),
        small_config(**{"model.hidden": 15, "model.heads": 5, "optimizer.clip": None, "optimizer.decay_steps": 3}),
        RunConfig(data=DataConfig(batch_size=3, reduction_chunks=3)),
        RunConfig(seed=(1 << 64) - 1),
    ],
    ids=[*PRESETS, "test", "odd", "batch of 3", "seed"],
)
def test_json_round_trip(config: RunConfig) -> None:
    assert from_json(json.loads(json.dumps(as_json(config)))) == config


def test_missing_keys_of_json_are_defaults() -> None:
    """So that runs recorded before a field was there are what they were."""
    assert from_json({}) == RunConfig()
    older = as_json(RunConfig())
    for part, name in [("model", "tied"), ("model", "recompute"), ("optimizer", "decay_fraction")]:
        del older[part][name]
    del older["data"]["accumulation"]
    assert from_json(older) == RunConfig()
    assert from_json({"model": {}, "steps": 3}) == RunConfig(steps=3)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"steps": 3, "stepz": 4}, ("'stepz'", "known here")),
        ({"model": {"layers": 1, "width": 2}}, ("'model.width'", "known here")),
        ({"model": {"layers": "1"}}, ("model.layers", "'1'", "int")),
        ({"model": [1, 2]}, ("'model'", "[1, 2]", "give a mapping")),
        ({"optimizer": {"beta1": 7}}, ("optimizer.beta1", "7", "0 <= beta < 1")),
        ({3: 4}, ("'3'", "known here")),
    ],
)
def test_json_that_is_no_configuration_is_refused(values: dict, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        configuration.from_json(values)
    assert_sentence(error.value, *parts)
