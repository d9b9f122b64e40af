"""Parameters of a decoder in memory, rounded to a policy's working format once instead of on every pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qsim.sites import Calculator

if TYPE_CHECKING:
    from qsim.arithmetic import Arithmetic
    from qsim.decoder import Weights

Parameters = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class HeldWeights:
    """``qsim.decoder.Weights`` that are read once.

    outside: parameters outside the layers.  layers: those of each.  working: the policy whose working copies they
    are; None where they are as they came.
    """

    outside: Parameters
    layers: tuple[Parameters, ...]
    working: Arithmetic | None = None

    def outer(self) -> Parameters:
        return self.outside

    def layer(self, number: int) -> Parameters:
        return self.layers[number]


def hold(weights: Weights, layers: int, calculator: Calculator | None = None) -> HeldWeights:
    """Every parameter, read now; its working copy under the policy of a calculator, on its back end.

    Memory: a parameter that came and its copy are there together for one layer at a time.
    """

    def kept(parameters: Parameters) -> Parameters:
        return parameters if calculator is None else calculator.working_copy(parameters)

    return HeldWeights(
        outside=kept(weights.outer()),
        layers=tuple(kept(weights.layer(number)) for number in range(layers)),
        working=None if calculator is None else calculator.policy,
    )


def are_working_copies(weights: Any, calculator: Calculator) -> bool:
    """Whether these parameters are what ``Calculator.working_copy`` would make of them, and nobody records it."""
    if not isinstance(weights, HeldWeights) or weights.working is None or calculator.recorder is not None:
        return False
    return _rounding(weights.working) == _rounding(calculator.policy)


def _rounding(policy: Arithmetic) -> tuple[Any, ...]:
    """What ``Calculator.working_copy`` reads of a policy."""
    return policy.parameters, policy.stages.write_back if policy.has_master else None
