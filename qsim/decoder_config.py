"""What a decoder is, of the families whose checkpoints are read: one frozen, checked record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from qsim.config import ConfigError, ModelConfig

Norm = Literal["layernorm", "rmsnorm"]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
Positions = Literal["learned", "sinusoidal", "rotary", "alibi"]
Shape = tuple[int, ...]
_MOST = (1 << 31) - 1  # places are int32
_LARGEST = float.fromhex("0x1.fffffep127")  # of float32


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A pre-norm decoder: x + attention(norm(x)), then x + MLP(norm(x)); or both from the same x.

    heads: of queries; kv_heads: of keys and values, each serving heads / kv_heads neighbouring ones.
    activation: ``gelu`` by erf, ``gelu_tanh`` its approximation; gated: activation(x G) times x U, with no bias.
    positions: ``learned``, a table whose first row is that of position -position_offset; ``sinusoidal``,
    times position_scale; ``rotary``, of the first rotary_fraction of each head, its halves turned by
    position / rotary_theta^(2 i / width); ``alibi``.
    parallel_residual: x + attention(norm_1(x)) + MLP(norm_2(x)).  biases: of the linear layers.  embedding_norm: a
    LayerNorm behind the embedding.  tied: the matrix of the logits is the transposed token table.
    Errors: ConfigError on creation for sizes that do not fit each other.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    length: int
    norm: Norm = "layernorm"
    epsilon: float = 1e-5
    activation: Activation = "gelu"
    gated: bool = False
    positions: Positions = "learned"
    position_offset: int = 0
    position_scale: float = 1.0
    rotary_fraction: float = 1.0
    rotary_theta: float = 10000.0
    parallel_residual: bool = False
    biases: bool = True
    embedding_norm: bool = False
    tied: bool = False
    final_norm: bool = True

    def __post_init__(self) -> None:
        sizes = ("layers", "hidden", "heads", "kv_heads", "head_size", "intermediate", "vocabulary", "length")
        for name in sizes:
            _check_size(name, getattr(self, name))
        for name, hint in get_type_hints(type(self)).items():
            value, known = getattr(self, name), get_args(hint)
            if hint is bool and not isinstance(value, bool):
                raise ConfigError(f"{name} is {value!r}; it is true or false")
            if known and value not in known:
                raise ConfigError(f"{name} is {value!r}; choose one of {', '.join(known)}")
        for name in ("epsilon", "position_scale", "rotary_theta", "rotary_fraction"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= _LARGEST:
                raise ConfigError(f"{name} is {value!r}; it must be a number above 0 that float32 has room for")
        self._check_heads()

    def _check_heads(self) -> None:
        if self.heads % self.kv_heads:
            raise ConfigError(f"{self.heads} heads do not share {self.kv_heads} heads of keys; one must divide it")
        width = self.rotary_width
        if self.positions == "rotary" and not (0 < width <= self.head_size and width % 2 == 0):
            raise ConfigError(
                f"rotary_fraction {self.rotary_fraction} of heads of {self.head_size} turns {width} values; "
                "it must turn an even number, at least 2 and no more than a head has"
            )

    @property
    def rotary_width(self) -> int:
        """Values of each head that are turned."""
        return int(self.head_size * self.rotary_fraction)

    @property
    def sizes(self) -> dict[str, int]:
        """Axes of tensors by short names: hidden, queries, keys, [Q | K | V], MLP, vocabulary, positions."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        return {
            "h": self.hidden,
            "q": queries,
            "kv": keys,
            "qkv": queries + 2 * keys,
            "m": self.intermediate,
            "v": self.vocabulary,
            "t": self.length + self.position_offset,
        }


def _check_size(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
        raise ConfigError(f"{name} is {value!r}; a decoder has a whole number from 1 to {_MOST}")


def of_model(config: ModelConfig) -> DecoderConfig:
    """The decoder that a run trains."""
    return DecoderConfig(
        layers=config.layers,
        hidden=config.hidden,
        heads=config.heads,
        kv_heads=config.heads,
        head_size=config.hidden // config.heads,
        intermediate=4 * config.hidden,
        vocabulary=config.vocabulary,
        length=config.length,
        epsilon=config.layernorm_epsilon,
        activation="gelu",
        positions=config.positions,
        position_scale=config.position_scale,
        tied=config.tied,
    )


def outer_shapes(config: DecoderConfig) -> dict[str, Shape]:
    """Shape of every parameter outside the layers, by name."""
    axes = {"embedding.tokens": "v h"}
    if config.positions == "learned":
        axes["embedding.positions"] = "t h"
    if config.embedding_norm:
        axes |= {"embedding_norm.gain": "h", "embedding_norm.bias": "h"}
    if config.final_norm:
        axes |= _norm(config, "layernorm_final")
    if not config.tied:
        axes["logits.weight"] = "h v"
    return _shapes(config, axes)


def layer_shapes(config: DecoderConfig) -> dict[str, Shape]:
    """Shape of every parameter of one layer, by name; weights are (in, out), qkv is [Q | K | V]."""
    linear = {"qkv": "h qkv", "attention_out": "q h", "mlp_up": "h m", "mlp_down": "m h"}
    axes = _norm(config, "layernorm_1") | _norm(config, "layernorm_2")
    axes |= {f"{site}.weight": both for site, both in linear.items()}
    if config.biases:
        axes |= {f"{site}.bias": both.split()[1] for site, both in linear.items()}
    if config.gated:
        axes["mlp_gate.weight"] = "h m"
    return _shapes(config, axes)


def _norm(config: DecoderConfig, site: str) -> dict[str, str]:
    with_bias = config.norm == "layernorm"
    return {f"{site}.gain": "h"} | ({f"{site}.bias": "h"} if with_bias else {})


def _shapes(config: DecoderConfig, axes: dict[str, str]) -> dict[str, Shape]:
    return {name: tuple(config.sizes[axis] for axis in text.split()) for name, text in axes.items()}


def without_none(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a configuration that leaves some to the others: MLP 4 h wide, a head of keys for each of queries.

    Errors: ConfigError for a width or heads that are no sizes, and where heads do not divide the width and their own
    is not said.
    """
    filled = dict(fields)
    hidden, heads = filled["hidden"], filled["heads"]
    _check_size("hidden", hidden)
    _check_size("heads", heads)
    if filled.get("intermediate") is None:
        filled["intermediate"] = 4 * hidden
    if filled.get("kv_heads") is None:
        filled["kv_heads"] = heads
    if filled.get("head_size") is None:
        if hidden % heads:
            raise ConfigError(f"hidden width {hidden} is not divisible by {heads} heads; one must divide the other")
        filled["head_size"] = hidden // heads
    return filled
