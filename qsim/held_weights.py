"""Parameters of a decoder in memory, rounded to a policy's working format once instead of on every pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

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

    outside, stacks = kept(weights.outer()), _Stacks(layers)
    return HeldWeights(
        outside=outside,
        layers=tuple(stacks.put(number, kept(weights.layer(number))) for number in range(layers)),
        working=None if calculator is None else calculator.policy,
    )


class _Stacks:
    """NumPy arrays of all layers, by name one block of memory: many smaller ones would leave holes between them."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._stacks: dict[str, np.ndarray] = {}

    def put(self, number: int, parameters: Parameters) -> Parameters:
        """The parameters of a layer where they stay; what is no NumPy array is left as it is."""
        return {
            name: self._placed(name, number, w) if isinstance(w, np.ndarray) else w for name, w in parameters.items()
        }

    def _placed(self, name: str, number: int, w: np.ndarray) -> np.ndarray:
        if name not in self._stacks:
            self._stacks[name] = np.empty((self._layers, *w.shape), w.dtype)
        place = self._stacks[name][number]
        place[...] = w
        return place


def are_working_copies(weights: Any, calculator: Calculator) -> bool:
    """Whether these parameters are what ``Calculator.working_copy`` would make of them, and nobody records it."""
    if not isinstance(weights, HeldWeights) or weights.working is None or calculator.recorder is not None:
        return False
    return _rounding(weights.working) == _rounding(calculator.policy)


def _rounding(policy: Arithmetic) -> tuple[Any, ...]:
    """What ``Calculator.working_copy`` reads of a policy."""
    return policy.parameters, policy.stages.write_back if policy.has_master else None
