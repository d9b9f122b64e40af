"""One back-end fixture for all tests, one deterministic Hypothesis profile."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import jax
import numpy as np
import pytest
from executors import EXECUTORS, Executor
from hypothesis import HealthCheck, settings
from terminal_signals import as_a_terminal_has_it

__all__ = ["as_a_terminal_has_it"]
LARGEST_WORKER = 3 << 30
GOLDEN = (5**0.5 - 1) / 2

# What JAX traces is millions of objects that live long: looking through them often is much of the time of tests that
# compile steps.
gc.set_threshold(50_000, 20, 100)

settings.register_profile(
    "deterministic",
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("deterministic")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a test marked ``thinned`` that share of its cases stays in the default run, the first among them; the others
    are exhaustive.

    Chosen by multiples of the golden ratio, which keep no step with the lists of executors, formats and the like that
    cases are products of.
    """
    met: dict[str, int] = {}
    for item in items:
        mark = item.get_closest_marker("thinned")
        if mark is not None:
            test = item.nodeid.partition("[")[0]
            number = met[test] = met.get(test, -1) + 1
            if number * GOLDEN % 1 >= mark.args[0]:
                item.add_marker("exhaustive")


@pytest.fixture(params=EXECUTORS, ids=str)
def backend(request: pytest.FixtureRequest) -> Executor:
    """Each back end in turn."""
    return request.param


@pytest.fixture(autouse=True, scope="module")
def compiled_code_let_go() -> Iterator[None]:
    """What JAX compiled for a module is dropped after it, once a worker holds much: whole steps are large."""
    yield
    if resident_bytes() > LARGEST_WORKER:
        jax.clear_caches()


def resident_bytes() -> int:
    """Of this process; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the kernels of a step once, while workers collect, where each of them would do so."""
    config = session.config
    distributing = not hasattr(config, "workerinput") and bool(getattr(config.option, "numprocesses", None))
    if distributing:
        Thread(target=warm_kernels, daemon=True).start()


def warm_kernels() -> None:
    from qsim.config import ModelConfig, RunConfig
    from qsim.model import dropout_keys, initial_parameters
    from qsim.optimizer import step_scalars
    from qsim.policy import POLICIES
    from qsim.recorders import Recorder
    from qsim.step import Step

    config = RunConfig(model=ModelConfig(layers=1, hidden=4, heads=2, length=4, vocabulary=8, dropout=0.5))
    parameters = initial_parameters(config.model, 0)
    zeros = {name: 0 * w for name, w in parameters.items()}
    tokens = np.zeros((config.data.batch_size, config.model.length), np.int32)
    for policy in ("fp32", "fp16"):
        step = Step(config, POLICIES[policy], "numba", Recorder)
        scalars = step_scalars(config.optimizer, 1, 1, 0, 1.0)
        state = {"parameters": parameters, "first": zeros, "second": zeros}
        step(state, (tokens, tokens), scalars, dropout_keys(config.model, 0, 1))
