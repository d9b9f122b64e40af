"""The tokens that a model is analyzed on: of files, of a run's held-out split, or of the embedded corpus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qsim.config import ConfigError
from qsim.importing import Model
from qsim.run_data import load_data
from qsim.text_sources import DataError, embedded_text, read_text

LONGEST = 512  # by default, of a sequence


def windows(model: Model, paths: Sequence[Path], *, count: int, length: int | None = None) -> tuple[np.ndarray, str]:
    """Tokens (S, T) int32 from the beginning of the text, in sequences side by side, and where they come from.

    count: at most so many tokens, whole sequences; length: of a sequence, by default the model's own, at most 512.
    Errors: ConfigError for sizes that hold no sequence or that the model has no positions for; DataError for text
    that is too short or cannot be read; ModelError where the model has no tokenizer.
    """
    most = model.config.length
    size = min(LONGEST, most, max(count, 1)) if length is None else length
    if not 1 <= size <= most and model.config.positions != "alibi":
        raise ConfigError(f"sequences of {size} tokens; the model {model.source} reads 1 to {most}")
    if count < size:
        raise ConfigError(f"{count} tokens hold no sequence of {size}; ask for more tokens, or a shorter --length")
    tokens, words = _tokens(model, paths)
    rows = min(count, len(tokens)) // size
    if not rows:
        raise DataError(f"{words} has {len(tokens)} tokens, not one sequence of {size}; give more text")
    return np.asarray(tokens[: rows * size], np.int32).reshape(rows, size), words


def _tokens(model: Model, paths: Sequence[Path]) -> tuple[np.ndarray, str]:
    if paths:
        return model.tokenizer.encode(read_text(paths)), ", ".join(path.name for path in paths)
    if model.run is not None:
        return load_data(model.run.path).validation, f"held-out split of {model.run.path.name}"
    return model.tokenizer.encode(embedded_text()), "embedded corpus"
