"""JSON of numbers that may be no JSON: NaN and the infinities as the texts that Protocol Buffers' JSON mapping uses.

Those three texts are numbers, then, wherever they stand: no field of a run folder's rows holds them as words.
Files written with bare NaN and Infinity, which Python's parser takes, are read alike.
"""

from __future__ import annotations

import json
import math
from typing import Any

_TEXTS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def dumps(value: Any, indent: int | None = None) -> str:
    """Strict JSON; a float that is not finite becomes "NaN", "Infinity" or "-Infinity"."""
    return json.dumps(_as_text(value), indent=indent, allow_nan=False)


def loads(text: str) -> Any:
    """What ``dumps`` wrote, floats again.  json.JSONDecodeError otherwise."""
    return _as_number(json.loads(text))


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_text(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_text(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _as_number(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_number(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_as_number(inner) for inner in value]
    return _TEXTS.get(value, value) if isinstance(value, str) else value
