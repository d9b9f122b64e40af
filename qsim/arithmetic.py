"""A policy: every site and pass, every stage after them, loss scaling; its JSON and its hash."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from qsim.site_policy import QUANTIZED_SITES, SITES, GradientRounding, Pass, SitePolicy
from qsim.stages import (
    DELAYED,
    FLOAT32,
    FLOAT64,
    NO_SCALING,
    STAGES,
    DelayedScaling,
    LossScaling,
    Stage,
    Stages,
    WriteBack,
)

LayerRow = tuple[int, str, Pass, SitePolicy]


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """A policy: every site and pass resolved, the working copy of the parameters, the stages, the loss scaling.

    layers: rows of single layers that stand in place of those of ``sites``, in order of layer, site and pass.
    delayed_scaling: options of the rows whose operands are scaled so.
    """

    name: str
    sites: tuple[tuple[str, Pass, SitePolicy], ...]
    parameters: str = "fp32"
    loss_scaling: LossScaling = NO_SCALING
    stages: Stages = FLOAT32
    layers: tuple[LayerRow, ...] = ()
    delayed_scaling: DelayedScaling = DELAYED

    def __post_init__(self) -> None:
        for place, site, direction, row in self.rows():
            if row.gradient_rounding == "stochastic" and not _draws(site, direction, row):
                raise ValueError(
                    f"{place} of policy {self.name} has no quantized gradient to round stochastically; "
                    f"dgrad and wgrad of {', '.join(QUANTIZED_SITES)} have under a scheme without outliers"
                )
            if row.gradient_inputs is not None and site not in (*QUANTIZED_SITES, "logits"):
                raise ValueError(f"{place} of policy {self.name} is no linear layer; leave out gradient_inputs")
            if row.scaling == "delayed" and site not in QUANTIZED_SITES:
                raise ValueError(
                    f"{place} of policy {self.name} keeps no history to scale by; {', '.join(QUANTIZED_SITES)} do"
                )
        if self.identity and not self._is_all_float64():
            raise ValueError(
                f"policy {self.name} mixes fp64 with other arithmetic; fp64 is float64 throughout or nowhere"
            )
        if self.stages.write_back.rounding == "stochastic" and self.has_master:
            raise ValueError(
                f"policy {self.name} keeps a master copy in {self.stages.master.format}, from which parameters are "
                f"not rounded stochastically; give master the format {self.parameters}"
            )

    def rows(self) -> Iterator[tuple[str, str, Pass, SitePolicy]]:
        """Every row, then those of single layers: (name of its place, site, pass, row)."""
        for site, direction, row in self.sites:
            yield f"{site}.{direction}", site, direction, row
        for layer, site, direction, row in self.layers:
            yield f"layer.{layer}.{site}.{direction}", site, direction, row

    @cached_property
    def delays(self) -> bool:
        """Whether some operand is scaled by its history, which is then part of the training state."""
        return any(row.scaling == "delayed" for *_, row in self.rows())

    @cached_property
    def identity(self) -> bool:
        """Whether nothing is rounded: float64 throughout, on NumPy alone."""
        stages = [row["format"] for row in map(self._stage_row, STAGES)]
        return "fp64" in stages or any("fp64" in row.formats for *_, row in self.rows())

    def _is_all_float64(self) -> bool:
        rows = all(row in _IDENTITY for *_, row in self.rows())
        return rows and self.stages == FLOAT64 and self.parameters == "fp64" and self.loss_scaling == NO_SCALING

    @property
    def has_master(self) -> bool:
        """Whether parameters are kept in another format than that of the working copy."""
        return self.stages.master.format != self.parameters

    @property
    def promises_bits(self) -> bool:
        """Whether the order of every sum is stated, so that hashes are the same on every executor."""
        return all(row.accumulator != "native" for *_, row in self.rows())

    @property
    def scales_tensors(self) -> bool:
        """Whether a site has a scale of a whole tensor, which is that of one part of the batch."""
        return any(row.scaling == "tensor" for *_, row in self.rows())

    @cached_property
    def _table(self) -> dict[tuple[int | None, str, Pass], SitePolicy]:
        table = {(layer, site, direction): row for layer, site, direction, row in self.layers}
        return table | {(None, site, direction): row for site, direction, row in self.sites}

    def site(self, name: str, direction: Pass, layer: int | None = None) -> SitePolicy:
        """The row of a site, of one layer where that has its own."""
        row = self._table.get((layer, name, direction)) or self._table.get((None, name, direction))
        if row is None:
            raise ValueError(f"policy {self.name} has no site {name}.{direction}; known sites: {', '.join(SITES)}")
        return row

    @cached_property
    def formats(self) -> frozenset[str]:
        """Formats of the values that pass from site to site: parameters, activations and their gradients."""
        passed = {
            row.output
            for _, site, direction, row in self.rows()
            if direction != "wgrad" and (site, direction) != ("loss", "fprop")
        }
        return frozenset(passed | {self.parameters})

    def segments(self, layers: int) -> list[tuple[int, int]]:
        """Runs (first, last + 1) of consecutive layers that have the same rows.

        Errors: ValueError for a row of a layer that the model does not have.
        """
        own: list[list[Any]] = [[] for _ in range(layers)]
        for layer, site, direction, row in self.layers:
            if layer >= layers:
                raise ValueError(f"policy {self.name} has rows of layer {layer}, the model only {layers} layers")
            own[layer].append((site, direction, row))
        starts = [i for i in range(layers) if i == 0 or own[i] != own[i - 1]]
        return list(zip(starts, [*starts[1:], layers], strict=True))

    def as_json(self) -> dict[str, Any]:
        """The resolved table; ``layers`` and ``delayed_scaling`` only where there are rows that have them."""
        rows = [{"site": site, "pass": p} | dataclasses.asdict(policy) for site, p, policy in self.sites]
        own = [{"layer": i, "site": s, "pass": p} | dataclasses.asdict(row) for i, s, p, row in self.layers]
        table = {
            "name": self.name,
            "parameters": self.parameters,
            "loss_scaling": dataclasses.asdict(self.loss_scaling),
            "sites": rows,
            "stages": [self._stage_row(name) for name in STAGES],
        }
        if self.delays:
            table["delayed_scaling"] = dataclasses.asdict(self.delayed_scaling)
        return table | ({"layers": own} if own else {})

    def _stage_row(self, name: str) -> dict[str, str]:
        stage = getattr(self.stages, name)
        fmt = stage.format if isinstance(stage, Stage) else self.parameters
        return {"stage": name, "format": fmt, "rounding": stage.rounding, "subnormals": stage.subnormals}

    @property
    def sha256(self) -> str:
        """Hash of the resolved table, the policy's identity in checkpoints.

        What tables did not always have counts where it is not as it always was.
        """
        table = self.as_json()
        for part in ("sites", "layers"):
            if part in table:
                table[part] = [_without_defaults(row) for row in table[part]]
        if self.stages == FLOAT32:
            del table["stages"]
        return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()

    def quantized(
        self,
        scheme: str = "int8_vectorwise",
        *,
        passes: Sequence[Pass] = ("fprop",),
        gradient_rounding: GradientRounding = "nearest_even",
        name: str | None = None,
    ) -> Arithmetic:
        """This policy with these passes of the linear layers of every block quantized, the forward one by default."""

        def changed(site: str, direction: Pass, row: SitePolicy) -> SitePolicy:
            if direction not in passes or site not in QUANTIZED_SITES:
                return row
            rounding: GradientRounding = "nearest_even" if direction == "fprop" else gradient_rounding
            return dataclasses.replace(
                row, quantization=scheme, gradient_rounding=rounding, scaling="none", gradient_inputs=None
            )

        rows = tuple((site, p, changed(site, p, row)) for site, p, row in self.sites)
        own = tuple((layer, site, p, changed(site, p, row)) for layer, site, p, row in self.layers)
        suffix = "int8" if scheme == "int8_vectorwise" else scheme
        return dataclasses.replace(self, name=name or f"{self.name}-{suffix}", sites=rows, layers=own)

    def override(
        self, rules: Sequence[tuple[str, Any]], *, layers: int | None = None, name: str | None = None
    ) -> Arithmetic:
        """This policy under ordered rules; see ``qsim.rules.override``."""
        from qsim.rules import override  # which names presets, which are made of this record

        return override(self, rules, layers=layers, name=name)

    def with_(self, *, name: str | None = None, loss_scaling: LossScaling | None = None, **fields: Any) -> Arithmetic:
        """This policy with fields of every site changed, ``accumulator`` where there is one."""
        moved = self.override([("*", fields)], name=name) if fields else self
        scaling = self.loss_scaling if loss_scaling is None else loss_scaling
        return dataclasses.replace(moved, name=name or moved.name, loss_scaling=scaling)


_FP64 = SitePolicy(inputs="fp64", output="fp64", inner="fp64", sums="fp64")
_IDENTITY = (_FP64, dataclasses.replace(_FP64, accumulator="native"))
_SINCE: dict[str, Any] = {
    "gradient_rounding": "nearest_even",
    "gradient_inputs": None,
    "scaling": "none",
    "block": 128,
    "sums": "fp32",
    "rounding": "nearest_even",
    "subnormals": "keep",
}


def _without_defaults(row: dict[str, Any]) -> dict[str, Any]:
    """The row without the fields that tables did not always have, where they hold what was then the only way."""
    return {key: value for key, value in row.items() if key not in _SINCE or value != _SINCE[key]}


def _draws(site: str, direction: Pass, row: SitePolicy) -> bool:
    """Whether the gradient of that site and pass may be rounded stochastically."""
    scheme = row.scheme("fprop")
    backward = direction in ("dgrad", "wgrad") and site in QUANTIZED_SITES
    return backward and scheme is not None and scheme.threshold is None


def from_json(values: dict[str, Any]) -> Arithmetic:
    """The policy that ``as_json`` wrote, now or before tables had stages and layers."""

    def row_of(row: dict[str, Any]) -> SitePolicy:
        return SitePolicy(**{key: value for key, value in row.items() if key not in ("layer", "site", "pass")})

    return Arithmetic(
        name=values["name"],
        sites=tuple((row["site"], row["pass"], row_of(row)) for row in values["sites"]),
        parameters=values["parameters"],
        loss_scaling=LossScaling(**values["loss_scaling"]),
        stages=_stages_from(values.get("stages", [])),
        delayed_scaling=DelayedScaling(**values.get("delayed_scaling", {})),
        layers=tuple((row["layer"], row["site"], row["pass"], row_of(row)) for row in values.get("layers", [])),
    )


def _stages_from(rows: list[dict[str, str]]) -> Stages:
    stages: dict[str, Any] = {}
    for row in rows:
        how: Any = {"rounding": row["rounding"], "subnormals": row["subnormals"]}
        own = row["stage"] == "write_back"  # whose format is that of the parameters
        stages[row["stage"]] = WriteBack(**how) if own else Stage(format=row["format"], **how)
    return Stages(**stages)
