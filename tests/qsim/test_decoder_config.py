"""Decoders that fit together, and those that do not."""

from __future__ import annotations

from typing import Any

import pytest
from refusals import refused

from qsim import model
from qsim.config import ConfigError, ModelConfig
from qsim.decoder_config import DecoderConfig, layer_shapes, of_model, outer_shapes, without_none

SIZES: dict[str, Any] = {"layers": 2, "hidden": 12, "heads": 4, "kv_heads": 2, "head_size": 5, "intermediate": 7}
SIZES |= {"vocabulary": 11, "length": 9}


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "alibi"])
@pytest.mark.parametrize("tied", [False, True])
def test_the_study_s_model_has_its_own_shapes(positions: Any, tied: bool) -> None:
    config = ModelConfig(layers=3, hidden=12, heads=3, positions=positions, tied=tied)
    decoder = of_model(config)
    stacked = {f"blocks.{name}": (3, *shape) for name, shape in layer_shapes(decoder).items()}
    assert outer_shapes(decoder) | stacked == model.parameter_shapes(config)


def test_shapes_of_grouped_heads_and_a_gated_mlp() -> None:
    config = DecoderConfig(**SIZES, norm="rmsnorm", gated=True, activation="silu", biases=False, position_offset=2)
    assert layer_shapes(config) == {
        "layernorm_1.gain": (12,),
        "layernorm_2.gain": (12,),
        "qkv.weight": (12, 40),
        "attention_out.weight": (20, 12),
        "mlp_up.weight": (12, 7),
        "mlp_gate.weight": (12, 7),
        "mlp_down.weight": (7, 12),
    }
    assert outer_shapes(config)["embedding.positions"] == (11, 12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"hidden": 12.0}, "hidden is 12.0"),
        ({"heads": True}, "heads is True"),
        ({"length": 1 << 31}, "length is 2147483648; a decoder has a whole number from 1 to 2147483647"),
        ({"position_scale": 0}, "position_scale is 0; it must be a number above 0"),
        ({"kv_heads": 3}, "4 heads do not share 3 heads of keys"),
        ({"norm": "batchnorm"}, "norm is 'batchnorm'; choose one of layernorm, rmsnorm"),
        ({"activation": "mish"}, "activation is 'mish'"),
        ({"positions": "none"}, "positions is 'none'"),
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"epsilon": True}, "epsilon is True"),
        ({"epsilon": 1e39}, "epsilon is 1e+39"),
        ({"rotary_theta": -1.0}, "rotary_theta is -1.0"),
        ({"tied": 1}, "tied is 1; it is true or false"),
        ({"positions": "rotary"}, "turns 5 values"),
        ({"positions": "rotary", "rotary_fraction": 0.1}, "turns 0 values"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], words: str) -> None:
    with refused(ConfigError, words):
        DecoderConfig(**(SIZES | changes))


def test_what_a_configuration_leaves_out() -> None:
    assert without_none({"hidden": 12, "heads": 3}) == {
        "hidden": 12,
        "heads": 3,
        "intermediate": 48,
        "kv_heads": 3,
        "head_size": 4,
    }
    given = {"hidden": 12, "heads": 5, "intermediate": 1, "kv_heads": 1, "head_size": 2}
    assert without_none(given) == given
    with refused(ConfigError, "12 is not divisible by 5 heads"):
        without_none({"hidden": 12, "heads": 5})
