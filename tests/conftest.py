"""One back-end fixture for all tests, one deterministic Hypothesis profile."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest
from executors import EXECUTORS, Executor
from hypothesis import HealthCheck, settings

settings.register_profile(
    "deterministic",
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("deterministic")


@pytest.fixture(params=EXECUTORS, ids=str)
def backend(request: pytest.FixtureRequest) -> Executor:
    """Each back end in turn."""
    return request.param
