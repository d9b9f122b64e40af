"""What is quantized of a model, and how: one frozen record."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args, get_type_hints

from precision.quantization.scheme import MatmulScheme, QScheme
from precision.quantization.schemes import parse_scheme
from qsim.site_policy import QUANTIZED_SITES

KeyValues = Literal["int8"]
Working = Literal["bf16", "fp16", "fp32"]
SMOOTHED_SITES = ("qkv", "mlp_up")  # behind a norm, whose gain and bias take the division up
ON_THE_FLY = ("scores", "values")  # products of activations
SITES = (*QUANTIZED_SITES, "logits", *ON_THE_FLY)
_SMOOTHING = "smoothquant"


@dataclass(frozen=True, kw_only=True)
class PostTraining:
    """How a model is quantized once it is trained.

    Fields
        scheme: of the linear layers, a name of ``precision.SCHEMES`` or ``int4_group<g>`` and the like that gives
            w codes; None: they stay, in ``working``.  Where a scheme multiplies columns of outliers apart, their rows
            of w are the dequantized ones: codes are all that is held.
        kv: ``int8``: keys and values of attention under the scheme ``int8_kv``, an fp16 scale a token and head.
        sites: which products; ``mlp_up`` is both of a gated MLP.  ``logits``: the head too, of a tied model a copy of
            its table.  ``scores``, ``values``: attention's, both operands on the fly, under an integer scheme.
        working: format that parameters are rounded to first, as which the others are kept: the model's own, the
            ``parameters`` of the policy it is compared with.
        dequantize_to: format that products of quantized sites leave in, and in which a scheme multiplies dequantized
            values; None: that of the policy's site, and of the scheme.
        alpha: of SmoothQuant, 0 to 1: weights times s, the gain and bias of the norm before them over s
            (``precision.smoothing_scale``), each rounded to ``working``.  Sites behind a norm are smoothed, qkv and
            mlp_up; attention_out and mlp_down, which have none, are not.  None: no smoothing, but 0.5 for the scheme
            ``smoothquant``.  Takes calibration.
        static: the range of x is that of the calibration, of a scheme with one scale for all of x; otherwise that of
            each x itself.
    Errors: ValueError on creation for unknown names and facts that contradict each other.
    """

    scheme: str | None = "int8_vectorwise"
    kv: KeyValues | None = None
    sites: tuple[str, ...] = QUANTIZED_SITES
    working: Working = "bf16"
    dequantize_to: Working | None = "fp16"
    alpha: float | None = None
    static: bool = False

    def __post_init__(self) -> None:
        if self.scheme == _SMOOTHING and self.alpha is None:
            object.__setattr__(self, "alpha", 0.5)
        object.__setattr__(self, "sites", tuple(self.sites))
        for name, hint in (("kv", KeyValues), ("working", Working), ("dequantize_to", Working)):
            value, known = getattr(self, name), get_args(hint)
            if value not in known and not (value is None and name != "working"):
                raise ValueError(f"{name} {value!r} is not offered; choose one of {', '.join(known)}")
        for wrong, because in self._contradictions() if self.scheme is None else self._scheme_contradictions():
            if wrong:
                raise ValueError(because)

    def _contradictions(self) -> list[tuple[bool, str]]:
        return [
            (
                self.alpha is not None,
                f"alpha {self.alpha} smooths what a scheme quantizes; name one, or leave it out",
            ),
            (self.static, "static ranges are of a scheme's activations; name one, or leave static out"),
        ]

    def _scheme_contradictions(self) -> list[tuple[bool, str]]:
        scheme = parse_scheme(self.scheme or "")
        unknown = [site for site in self.sites if site not in SITES]
        flying = [site for site in self.sites if site in ON_THE_FLY]
        one_scale = scheme.threshold is None and getattr(scheme.x, "granularity", None) == "tensor"
        number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        return [
            (not isinstance(scheme.w, QScheme), f"scheme {scheme.name} gives blocks of floats, not codes "
             "with scales; choose an integer one"),
            (scheme.name == "int8_kv", "scheme int8_kv is for keys and values; say kv"),
            (not self.sites, "no site is quantized; name some, or scheme None"),
            (bool(unknown), f"{', '.join(map(repr, unknown))} cannot be quantized; sites are {', '.join(SITES)}"),
            (len(set(self.sites)) < len(self.sites), f"sites {', '.join(self.sites)} name one twice; name each once"),
            (bool(flying) and not scheme.integer, f"{', '.join(flying)} multiply activations, and scheme "
             f"{scheme.name} no integers; choose an integer scheme, or leave them out"),
            (self.static and not one_scale, f"scheme {scheme.name} has no one scale for all of x, which static "
             "ranges are for; choose int8_tensorwise or int8_affine, or leave static out"),
            (self.alpha is not None and not (number and 0 <= self.alpha <= 1),
             f"alpha {self.alpha!r} is outside 0 <= alpha <= 1; 0.5 shares the difficulty evenly"),
            (self.alpha is not None and not set(self.sites) & set(SMOOTHED_SITES),
             f"alpha smooths {' and '.join(SMOOTHED_SITES)}, and neither is quantized; leave it out"),
        ]  # fmt: skip

    @property
    def quantizes(self) -> bool:
        """Whether anything is quantized: otherwise parameters are in ``working``, and that is all."""
        return self.scheme is not None or self.kv is not None

    @property
    def calibrates(self) -> bool:
        """Whether quantizing takes tokens to calibrate on."""
        return self.alpha is not None or self.static

    @property
    def linear(self) -> tuple[str, ...]:
        """Sites whose weights become codes."""
        return () if self.scheme is None else tuple(site for site in self.sites if site not in ON_THE_FLY)

    @cached_property
    def product(self) -> MatmulScheme | None:
        """The scheme of the quantized products, x w as ``precision.quantized_matmul`` makes it."""
        if self.scheme is None:
            return None
        scheme = parse_scheme(self.scheme)
        changes: dict[str, Any] = {} if self.dequantize_to is None else {"working": self.dequantize_to}
        if scheme.threshold is not None:
            changes["outlier_weights"] = "dequantized"
        return dataclasses.replace(scheme, **changes)

    @property
    def quantizing(self) -> MatmulScheme:
        """``product`` where there is one.  ValueError where no linear layer is quantized."""
        if self.product is None:
            raise ValueError("linear layers are not quantized; name a scheme")
        return self.product

    @property
    def weight_scheme(self) -> QScheme:
        """Of w.  ValueError where no linear layer is quantized."""
        return operand_scheme(self.quantizing, "w")

    def __str__(self) -> str:
        parts = [] if self.scheme is None else [f"{self.scheme} of {', '.join(self.sites)}"]
        parts += [] if self.alpha is None else [f"smoothed with alpha {self.alpha:g}"]
        parts += ["static ranges"] if self.static else []
        parts += [] if self.kv is None else ["keys and values in INT8"]
        return "; ".join(parts)

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"sites": list(self.sites)}


def operand_scheme(product: MatmulScheme, operand: Literal["x", "w"]) -> QScheme:
    """How that operand becomes codes.  ValueError where it does not."""
    found = product.x if operand == "x" else product.w
    if not isinstance(found, QScheme):
        raise ValueError(f"scheme {product.name} gives {operand} no codes; choose an integer one")
    return found


def from_json(values: Any) -> PostTraining:
    """The record that ``as_json`` wrote.  ValueError for anything else."""
    known = get_type_hints(PostTraining).keys()
    if not isinstance(values, dict) or values.keys() != known or not isinstance(values["sites"], list):
        raise ValueError(f"it has not just the keys {', '.join(known)}")
    return PostTraining(**values)
