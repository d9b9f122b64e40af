"""What ``config.json``, or the metadata of a GGUF file, says of a decoder: keys by architecture, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qsim.config import ConfigError
from qsim.decoder_config import Activation, DecoderConfig, without_none
from qsim.importing.architectures import BLOOM, GGUF_GPT2, GGUF_LLAMA, GPT2, GPT_NEOX, LLAMA, OPT, TensorNames
from qsim.importing.refusal import ModelError

_ACTIVATIONS: dict[str, Activation] = {  # by the names of config.json
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_REQUIRED = object()


@dataclass(frozen=True)
class Key:
    """Names that a value is looked for under, one after another, ``a.b`` also inside a; else the default."""

    names: str
    default: Any = _REQUIRED


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """fields: of ``DecoderConfig``, a ``Key`` or the value itself.  only: keys with the values that are offered.
    same: pairs of keys that must agree where both stand."""

    name: str
    tensors: TensorNames
    fields: Mapping[str, Any]
    only: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    same: tuple[tuple[str, str], ...] = ()


_TIED = Key("tie_word_embeddings", True)
_UNSCALED = {"rope_scaling": (None,), "rope_parameters.rope_type": ("default",)}

HUGGING_FACE = {
    "gpt2": Architecture(
        name="gpt2",
        tensors=GPT2,
        fields={
            "layers": Key("n_layer"),
            "hidden": Key("n_embd"),
            "heads": Key("n_head"),
            "intermediate": Key("n_inner", None),
            "vocabulary": Key("vocab_size"),
            "length": Key("n_positions n_ctx"),
            "epsilon": Key("layer_norm_epsilon"),
            "activation": Key("activation_function"),
            "tied": _TIED,
        },
        only={
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "add_cross_attention": (False,),
        },
    ),
    "opt": Architecture(
        name="opt",
        tensors=OPT,
        fields={
            "layers": Key("num_hidden_layers"),
            "hidden": Key("hidden_size"),
            "heads": Key("num_attention_heads"),
            "intermediate": Key("ffn_dim"),
            "vocabulary": Key("vocab_size"),
            "length": Key("max_position_embeddings"),
            "activation": Key("activation_function"),
            "position_offset": 2,
            "tied": _TIED,
        },
        only={
            "do_layer_norm_before": (True,),
            "_remove_final_layer_norm": (False,),
            "enable_bias": (True,),
            "layer_norm_elementwise_affine": (True,),
        },
        same=(("word_embed_proj_dim", "hidden_size"),),
    ),
    "bloom": Architecture(
        name="bloom",
        tensors=BLOOM,
        fields={
            "layers": Key("n_layer num_hidden_layers"),
            "hidden": Key("hidden_size n_embed"),
            "heads": Key("n_head num_attention_heads"),
            "intermediate": Key("n_inner", None),
            "vocabulary": Key("vocab_size"),
            "length": Key("seq_length", 2048),  # ALiBi sets no limit
            "epsilon": Key("layer_norm_epsilon"),
            "activation": "gelu_new",
            "positions": "alibi",
            "embedding_norm": True,
            "tied": _TIED,
        },
        only={"apply_residual_connection_post_layernorm": (False,)},
    ),
    "gpt_neox": Architecture(
        name="gpt_neox",
        tensors=GPT_NEOX,
        fields={
            "layers": Key("num_hidden_layers"),
            "hidden": Key("hidden_size"),
            "heads": Key("num_attention_heads"),
            "intermediate": Key("intermediate_size"),
            "vocabulary": Key("vocab_size"),
            "length": Key("max_position_embeddings"),
            "epsilon": Key("layer_norm_eps"),
            "activation": Key("hidden_act"),
            "positions": "rotary",
            "rotary_fraction": Key("rotary_pct rope_parameters.partial_rotary_factor", 0.25),
            "rotary_theta": Key("rotary_emb_base rope_parameters.rope_theta", 10000.0),
            "parallel_residual": Key("use_parallel_residual", True),
            "tied": Key("tie_word_embeddings", False),
        },
        only={"attention_bias": (True,), **_UNSCALED},
    ),
    "llama": Architecture(
        name="llama",
        tensors=LLAMA,
        fields={
            "layers": Key("num_hidden_layers"),
            "hidden": Key("hidden_size"),
            "heads": Key("num_attention_heads"),
            "kv_heads": Key("num_key_value_heads", None),
            "head_size": Key("head_dim", None),
            "intermediate": Key("intermediate_size"),
            "vocabulary": Key("vocab_size"),
            "length": Key("max_position_embeddings"),
            "norm": "rmsnorm",
            "epsilon": Key("rms_norm_eps"),
            "activation": Key("hidden_act"),
            "gated": True,
            "positions": "rotary",
            "rotary_theta": Key("rope_theta rope_parameters.rope_theta", 10000.0),
            "biases": False,
            "tied": Key("tie_word_embeddings", False),
        },
        only={"attention_bias": (False,), "mlp_bias": (False,), **_UNSCALED},
    ),
}
HUGGING_FACE["mistral"] = replace(
    HUGGING_FACE["llama"], name="mistral", only=HUGGING_FACE["llama"].only | {"sliding_window": (None,)}
)

GGUF = {
    "llama": Architecture(
        name="llama",
        tensors=GGUF_LLAMA,
        fields={
            "layers": Key("llama.block_count"),
            "hidden": Key("llama.embedding_length"),
            "heads": Key("llama.attention.head_count"),
            "kv_heads": Key("llama.attention.head_count_kv", None),
            "head_size": Key("llama.attention.key_length llama.rope.dimension_count", None),
            "intermediate": Key("llama.feed_forward_length"),
            "vocabulary": Key("vocabulary"),
            "length": Key("llama.context_length"),
            "norm": "rmsnorm",
            "epsilon": Key("llama.attention.layer_norm_rms_epsilon"),
            "activation": "silu",
            "gated": True,
            "positions": "rotary",
            "rotary_theta": Key("llama.rope.freq_base", 10000.0),
            "biases": False,
            "tied": Key("tied"),
        },
        only={"llama.rope.scaling.type": ("none",), "llama.expert_count": (0,)},
        same=(
            ("llama.rope.dimension_count", "llama.attention.key_length"),
            ("llama.attention.value_length", "llama.attention.key_length"),
        ),
    ),
    "gpt2": Architecture(
        name="gpt2",
        tensors=GGUF_GPT2,
        fields={
            "layers": Key("gpt2.block_count"),
            "hidden": Key("gpt2.embedding_length"),
            "heads": Key("gpt2.attention.head_count"),
            "intermediate": Key("gpt2.feed_forward_length"),
            "vocabulary": Key("vocabulary"),
            "length": Key("gpt2.context_length"),
            "epsilon": Key("gpt2.attention.layer_norm_epsilon"),
            "activation": "gelu_new",
            "tied": Key("tied"),
        },
    ),
}


def architecture_named(known: Mapping[str, Architecture], name: Any, path: Path) -> Architecture:
    """ModelError, naming those that are offered, for any other."""
    if not isinstance(name, str) or name not in known:
        raise ModelError(f"{path} is of architecture {name!r}, which is not offered; {', '.join(known)} are")
    return known[name]


def decoder_config(architecture: Architecture, values: Mapping[str, Any], path: Path) -> DecoderConfig:
    """The configuration in a file.  ModelError for a missing key, and for what is not offered."""
    _check_offered(architecture, values, path)
    fields = {name: _value(key, values, path) for name, key in architecture.fields.items()}
    said = fields.pop("activation")
    if not isinstance(said, str) or said not in _ACTIVATIONS:
        raise ModelError(f"{path} names activation {said!r}, not offered; {', '.join(_ACTIVATIONS)} are")
    try:
        return DecoderConfig(activation=_ACTIVATIONS[said], **without_none(fields))
    except ConfigError as error:
        raise ModelError(f"{path} describes no decoder ({error}); restore it") from None


def _check_offered(architecture: Architecture, values: Mapping[str, Any], path: Path) -> None:
    for name, offered in architecture.only.items():
        said = found(values, name, offered[0])
        if said not in offered:
            raise ModelError(
                f"{path} says {name} {said!r}; of {architecture.name} models only {offered[0]!r} is offered"
            )
    for name, other in architecture.same:
        one = found(values, name, None)
        expected = found(values, other, one)
        if one not in (None, expected):
            raise ModelError(
                f"{path} says {name} {one} and {other} {expected}; of {architecture.name} models only equal ones are "
                "offered"
            )


def _value(key: Any, values: Mapping[str, Any], path: Path) -> Any:
    if not isinstance(key, Key):
        return key
    for name in key.names.split():
        value = found(values, name, _REQUIRED)
        if value is not _REQUIRED:
            return value
    if key.default is _REQUIRED:
        raise ModelError(f"{path} has no {' or '.join(key.names.split())}; restore the key")
    return key.default


def found(values: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """The value under a name, or under ``b`` inside ``a`` for ``a.b``."""
    if name in values:
        return values[name]
    outer, dot, inner = name.partition(".")
    inside = values.get(outer) if dot else None
    return inside.get(inner, otherwise) if isinstance(inside, Mapping) else otherwise
