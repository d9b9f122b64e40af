"""The error of everything that reads a model."""

from __future__ import annotations


class ModelError(ValueError):
    """A model that cannot be read or written, in one sentence that names the file."""
