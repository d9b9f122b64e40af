"""Ranges of what enters linear layers, channel by channel, over tokens to calibrate on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qsim.decoder import Weights, decoder_forward
from qsim.decoder_config import DecoderConfig
from qsim.importing.refusal import ModelError
from qsim.policies import parse_policy
from qsim.sites import Calculator

Place = tuple[int | None, str]  # layer, None outside them, and site
Range = tuple[np.ndarray, np.ndarray]  # lowest and highest value of each channel, (k,)
_ROWS = 4096  # tokens at a time
_EXECUTORS = ("numpy", "numba")


def observed_ranges(
    config: DecoderConfig, weights: Weights, tokens: np.ndarray, *, policy: str, executor: str = "numba"
) -> dict[Place, Range]:
    """Of the inputs of all linear layers, under a policy, over tokens (B, T); the same bits on both executors.

    Errors: ModelError for an infinity or NaN, which has no range, naming its place, and for no tokens; TokenError for
    tokens that the model cannot read; ValueError for JAX, whose values are not seen while they are computed.
    """
    if executor not in _EXECUTORS:
        raise ValueError(f"executor {executor!r} does not calibrate; choose one of {', '.join(_EXECUTORS)}")
    if not tokens.size:
        raise ModelError("there are no tokens to calibrate on; give at least one sequence")
    found: dict[Place, Range] = {}

    def listener(layer: int | None, place: str, x: np.ndarray) -> None:
        site, _, what = place.partition(".")
        if what == "input":
            key = layer, site
            found[key] = _wider(found.get(key), _range(key, np.asarray(x)))

    calculator = Calculator(parse_policy(policy), executor)
    calculator.listener = listener
    for some in _batches(tokens):
        decoder_forward(calculator, config, weights, some)
    return found


def _batches(tokens: np.ndarray) -> Iterator[np.ndarray]:
    some = max(1, _ROWS // tokens.shape[-1])
    return (tokens[i : i + some] for i in range(0, len(tokens), some))


def _range(place: Place, x: np.ndarray) -> Range:
    low, high = x.min(axis=0), x.max(axis=0)
    if not (np.isfinite(low) & np.isfinite(high)).all():
        layer, site = place
        where = site if layer is None else f"layer {layer}'s {site}"
        raise ModelError(
            f"what enters {where} holds an infinity or NaN, which has no range; calibrate on other text or in bf16"
        )
    return low, high


def _wider(old: Range | None, new: Range) -> Range:
    return new if old is None else (np.minimum(old[0], new[0]), np.maximum(old[1], new[1]))


def channel_absmax(one: Range) -> np.ndarray:
    return np.maximum(np.abs(one[0]), np.abs(one[1]))


def whole_range(one: Range) -> np.ndarray:
    """(low, high) of all channels."""
    return np.array([one[0].min(), one[1].max()], np.float32)
