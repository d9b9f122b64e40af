"""One training step, written once: loss, gradients, clipping, update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from precision.formats import Format
from qsim.config import RunConfig
from qsim.devices import Devices, Kind, Kinds, OneDevice
from qsim.faults import Fault
from qsim.model import loss_and_gradients
from qsim.optimizer import adamw, clip_factor, global_norm
from qsim.policy import Arithmetic
from qsim.sharding import plain_key
from qsim.sites import Calculator, Recorder

Array = Any
Tree = dict[str, Array]
State = dict[str, Tree]
_RESULTS = ("loss", "gradients", "gradient_norm", "finite", "proved")


def training_step(
    ar: Calculator, config: RunConfig, state: State, batch: tuple[Array, Array], scalars: Tree, keys: Any
) -> tuple[State, dict[str, Any]]:
    """The state after one step, and what is recorded of it.

    state: ``parameters`` (the master, or the working copy where there is none), ``first``, ``second`` by name.  The
    gradients returned are unscaled and reduced, before clipping.  Where one is not finite the state stays as it was.
    """
    keys = ar.draw_from(keys)
    working = ar.working_copy(state["parameters"])
    if not ar.policy.has_master:
        state = state | {"parameters": working}
    loss, scaled = loss_and_gradients(
        ar,
        config.model,
        working,
        *batch,
        loss_scale=scalars["loss_scale"],
        chunks=config.data.reduction_chunks,
        accumulation=config.data.accumulation,
        keys=keys,
    )
    unscale = ar.stage("unscale_clip")
    gradients = {name: unscale.output(unscale.multiply(g, scalars["unscale"])) for name, g in scaled.items()}
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
    """Whether no gradient holds an infinity or a NaN."""
    flags = [ar.xp.all(ar.xp.isfinite(g)) for _, g in sorted(gradients.items())]
    return ar.shards.everywhere(ar.xp.all(ar.xp.stack(flags)))


class Step:
    """``training_step`` of one policy on one executor, compiled where that compiles.

    Called with (state, batch, scalars, keys), host arrays or what it returned.  With a recorder the results hold
    ``records``, its values by site, and ``formats`` the format of each.  The first attempt is speculative (see
    ``Calculator``); it is made again without speculation where its proofs did not hold, so the bits never depend on
    it.  ``faults``: planted in every call.
    """

    def __init__(
        self,
        config: RunConfig,
        policy: Arithmetic,
        executor: str,
        recorder: Callable[[], Recorder] | None = None,
        devices: Devices | None = None,
        faults: Sequence[Fault] = (),
    ) -> None:
        self.faults = faults
        self.config, self.policy, self.executor, self.recorder = config, policy, executor, recorder
        self.devices = devices or OneDevice(executor)
        self.formats: dict[str, Format] = {}
        self._shared_parts = config.data.accumulation if policy.scales_tensors else 1
        self._speculative, self._certain = self._compiled(True), self._compiled(False)

    def _compiled(self, speculative: bool) -> Callable:
        names = (*_RESULTS, *(["records"] if self.recorder else []))
        results: Kinds = dict.fromkeys(names, "same") | {"gradients": "parameters"}
        inputs: tuple[Kind, ...] = ("state", "batch", "same", "same")
        return self.devices.compiled(partial(self._run, speculative), inputs, ("state", results))

    def __call__(
        self, state: State, batch: tuple[Array, Array], scalars: Tree, keys: Any
    ) -> tuple[State, dict[str, Any]]:
        state, batch = self.devices.place(state, "state"), self.devices.place(batch, "batch", self._shared_parts)
        new, results = self._speculative(state, batch, scalars, keys)
        if not results["proved"]:
            new, results = self._certain(state, batch, scalars, keys)
        return new, results

    def _run(self, speculative: bool, state: State, batch: tuple[Array, Array], scalars: Tree, keys: Any) -> Any:
        observer = self.recorder() if self.recorder else None
        shards = self.devices.shards.for_computation(self._shared_parts)
        ar = Calculator(
            self.policy, self.executor, observer, speculative=speculative, shards=shards, faults=self.faults
        )
        state, results = training_step(ar, self.config, state, batch, scalars, keys)
        ar.check_faults()
        if observer:
            self.formats.update({plain_key(key): fmt for key, fmt in observer.formats.items()})
            results["records"] = shards.totals(observer.results(ar.backend))
        return state, results | {"proved": shards.everywhere(ar.proved())}
