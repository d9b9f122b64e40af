"""A model quantized layer by layer, none of which is held twice.

Each parameter is rounded to the working format, smoothed where asked, and quantized: rounding, smoothing and ranges
are those of the model in its own 16-bit format, which is what a quantized model is compared with.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

import precision as pr
from qsim.decoder import Parameters
from qsim.hashing import canonical
from qsim.importing.opening import Model
from qsim.importing.refusal import ModelError
from qsim.post_training.calibrating import Place, Range, channel_absmax, observed_ranges, whole_range
from qsim.post_training.how import SMOOTHED_SITES, PostTraining
from qsim.post_training.weights import Held, QuantizedWeights, as_held, is_quantized

_NORM_BEFORE = {"qkv": "layernorm_1", "mlp_up": "layernorm_2"}
_BEHIND = {"qkv": ("qkv.weight",), "mlp_up": ("mlp_up.weight", "mlp_gate.weight")}


def quantize_model(
    model: Model, how: PostTraining, *, calibration: np.ndarray | None = None, executor: str = "numba"
) -> Model:
    """The model with its linear layers as codes and scales, the others in the working format.

    ``calibration``: tokens (B, T), where ``how.calibrates``; executor: numpy or numba, which computes on them.  A
    layer is read, quantized and let go before the next one.  The bits are the same on every executor.
    Errors: ModelError for a model that is quantized already, for calibration that is missing or not asked for, and
    for weights that hold NaN or infinity; what ``observed_ranges`` raises.
    """
    quantizing = Quantizing.of(model, how, calibration, executor)
    outer, *layers = quantizing.parts()
    weights = QuantizedWeights(
        config=model.config,
        how=how,
        held_outer=outer,
        held_layers=tuple(layers),
        source_sha256=quantizing.source_sha256,
    )
    return dataclasses.replace(model, weights=weights, quantization=how)


@dataclass(kw_only=True)
class Quantizing:
    """A model on its way, which ``parts`` reads and quantizes piece after piece.

    As ``qsim.decoder.Weights`` it is the model in its working format, smoothed where that is asked.
    smoothing: factor s of each channel; limits: of x.  source_sha256: once ``parts`` has come to its end, of the
    parameters as they were read, float32: of lines ``name shape sha256`` in order of names.
    """

    model: Model
    how: PostTraining
    smoothing: dict[Place, np.ndarray] = field(default_factory=dict)
    limits: dict[Place, np.ndarray] = field(default_factory=dict)
    source_sha256: str = ""

    @classmethod
    def of(
        cls, model: Model, how: PostTraining, calibration: np.ndarray | None, executor: str = "numba"
    ) -> Quantizing:
        """Ready to go, ranges observed.  Errors: as ``quantize_model``."""
        if model.quantization is not None:
            raise ModelError(f"{model.source} is quantized already ({model.quantization}); name the model it was")
        if not how.quantizes:
            raise ModelError("nothing is quantized; name a scheme, or keys and values by kv")
        if how.calibrates and calibration is None:
            what = "smoothing takes" if how.alpha is not None else "static ranges take"
            raise ModelError(f"{what} the activations of some text; give tokens to calibrate on")
        if not how.calibrates and calibration is not None:
            raise ModelError("neither smoothing nor static ranges are asked for; give no tokens to calibrate on")
        made = cls(model=model, how=how)
        if calibration is not None:
            made._calibrate(calibration, executor)
        return made

    def _calibrate(self, tokens: np.ndarray, executor: str) -> None:
        """Smoothing by what the model itself sees; static ranges by what it sees once smoothed."""

        def observed() -> dict[Place, Range]:
            return observed_ranges(self.model.config, self, tokens, policy=self.how.working, executor=executor)

        if self.how.alpha is not None:
            self.smoothing = self._smoothing_scales(observed())
        if self.how.static:
            for place, one in observed().items():
                if place[1] in self.how.linear:
                    self.limits[place] = pr.round_to(whole_range(one), self._takes())

    def _takes(self) -> pr.Format:
        """What x is rounded to before it is quantized."""
        product = self.how.product
        return product.x.takes if product is not None and isinstance(product.x, pr.QScheme) else pr.FP32

    def _smoothing_scales(self, ranges: dict[Place, Range]) -> dict[Place, np.ndarray]:
        found: dict[Place, np.ndarray] = {}
        for i in range(self.model.config.layers):
            layer = self.layer(i)
            for site in (site for site in SMOOTHED_SITES if site in self.how.linear):
                of_w = np.maximum.reduce([np.abs(layer[name]).max(axis=1) for name in _BEHIND[site] if name in layer])
                if not np.isfinite(of_w).all():
                    raise self._refused(i, f"{site}.weight", "it holds NaN or infinity")
                found[i, site] = pr.smoothing_scale(channel_absmax(ranges[i, site]), of_w, alpha=self.how.alpha or 0)
        return found

    def outer(self) -> Parameters:
        """Parameters outside the layers; of a tied model whose head will be quantized, that too."""
        return self._prepared(None, self._raw(None))

    def layer(self, number: int) -> Parameters:
        return self._prepared(number, self._raw(number))

    def _raw(self, layer: int | None) -> Parameters:
        return self.model.weights.outer() if layer is None else self.model.layer(layer)

    def _prepared(self, layer: int | None, raw: Parameters) -> Parameters:
        """In the working format, smoothed."""
        found = {name: pr.round_to(w, self.how.working) for name, w in raw.items()}
        if layer is None and self.model.config.tied and "logits" in self.how.linear:
            found["logits.weight"] = np.ascontiguousarray(found["embedding.tokens"].T)
        for site, norm in _NORM_BEFORE.items():
            if (layer, site) in self.smoothing:
                found |= self._smoothed(found, norm, _BEHIND[site], self.smoothing[layer, site])
        return found

    def _smoothed(self, held: Parameters, norm: str, weights: tuple[str, ...], scale: np.ndarray) -> Parameters:
        """Gain and bias over s, weights times s, one rounding each."""
        fmt, rows = self.how.working, scale[:, None]
        norms = {n: pr.div(held[n], scale, fmt=fmt) for n in (f"{norm}.gain", f"{norm}.bias") if n in held}
        return norms | {name: pr.mul(held[name], rows, fmt=fmt) for name in weights if name in held}

    def parts(self) -> Iterator[Held]:
        """What is held outside the layers, then of each layer."""
        lines = []
        for layer in (None, *range(self.model.config.layers)):
            raw = self._raw(layer)
            prefix = "" if layer is None else f"layer.{layer}."
            lines += [_line(prefix + name, w) for name, w in raw.items()]
            yield self._quantized(layer, self._prepared(layer, raw))
        self.source_sha256 = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()

    def _quantized(self, layer: int | None, parameters: Parameters) -> Held:
        held: Held = {}
        for name, w in parameters.items():
            held |= as_held(name, self._codes(layer, name, w) if is_quantized(name, self.how) else w, self.how)
        return held | {f"{site}.limits": limits for (of, site), limits in self.limits.items() if of == layer}

    def _codes(self, layer: int | None, name: str, w: np.ndarray) -> pr.QArray:
        try:
            return pr.quantize(w, self.how.weight_scheme, axis=-2)
        except ValueError as error:
            raise self._refused(layer, name, str(error)) from None

    def _refused(self, layer: int | None, name: str, reason: str) -> ModelError:
        where = name if layer is None else f"layer {layer}'s {name}"
        return ModelError(f"{where} of {self.model.source} in {self.how.working} gets no codes: {reason}")


def _line(name: str, w: np.ndarray) -> str:
    return f"{name} {list(w.shape)} {hashlib.sha256(canonical(w).data).hexdigest()}\n"
