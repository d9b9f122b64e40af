"""JSON files of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qsim.importing.refusal import ModelError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file.  ModelError where it is missing, cannot be read or holds none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing; name the folder of a whole checkpoint") from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); make it a readable file") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no JSON ({error}); restore it") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object; restore it")
    return value
