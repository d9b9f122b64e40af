"""The error of everything that evaluates a model."""

from __future__ import annotations


class EvaluationError(ValueError):
    """Text, items or a model that cannot be evaluated, in one sentence."""
