"""One training step, written once: loss, gradients, clipping, update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qsim.config import RunConfig
from qsim.model import loss_and_gradients
from qsim.optimizer import adamw, clip_factor, global_norm
from qsim.policy import Arithmetic
from qsim.sites import Calculator, Recorder

Array = Any
Tree = dict[str, Array]
State = dict[str, Tree]


def training_step(
    ar: Calculator, config: RunConfig, state: State, batch: tuple[Array, Array], scalars: Tree, keys: Any
) -> tuple[State, dict[str, Any]]:
    """The state after one step, and what is recorded of it.

    state: ``parameters`` (float32 master), ``first``, ``second`` by name.  The gradients returned are unscaled and
    reduced, before clipping.  Where one is not finite the state stays as it was.
    """
    working = ar.working_copy(state["parameters"])
    loss, scaled = loss_and_gradients(
        ar,
        config.model,
        working,
        *batch,
        loss_scale=scalars["loss_scale"],
        chunks=config.data.reduction_chunks,
        keys=keys,
    )
    gradients = {name: ar.float32.multiply(g, scalars["unscale"]) for name, g in scaled.items()}
    norm = global_norm(ar, gradients)
    finite = _all_finite(ar, gradients)
    factor = clip_factor(ar, norm, config.optimizer.clip)
    updated = adamw(ar, config.optimizer, state, gradients, scalars, factor)
    kept = {
        part: {name: ar.xp.where(finite, value, state[part][name]) for name, value in tree.items()}
        for part, tree in updated.items()
    }
    return kept, {"loss": loss, "gradients": gradients, "gradient_norm": norm, "finite": finite}


def _all_finite(ar: Calculator, gradients: Tree) -> Array:
    """Whether every gradient is finite: a product with zero is zero just for finite numbers."""
    flags = [ar.xp.all(ar.xp.isfinite(g)) for _, g in sorted(gradients.items())]
    return ar.xp.all(ar.xp.stack(flags))


def make_step(
    config: RunConfig,
    policy: Arithmetic,
    executor: str,
    recorder: Callable[[], Recorder] | None = None,
) -> Callable[[State, tuple[Array, Array], Tree, Any], tuple[State, dict[str, Any]]]:
    """``training_step`` of one executor, compiled where that compiles.

    With a recorder the results hold ``records``: its values by site, and its ``formats`` are filled in.
    """

    def step(state: State, batch: tuple[Array, Array], scalars: Tree, keys: Any) -> Any:
        observer = recorder() if recorder else None
        ar = Calculator(policy, executor, observer)
        state, results = training_step(ar, config, state, batch, scalars, keys)
        if observer:
            formats.update(observer.formats)
            results["records"] = observer.values
        return state, results

    formats: dict[str, str] = {}
    compiled = Calculator(policy, executor).backend.jit(step)
    compiled_with_formats: Any = lambda *arguments: compiled(*arguments)  # noqa: E731
    compiled_with_formats.formats = formats
    return compiled_with_formats
