"""One training step, written once: loss, gradients, clipping, update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from precision.formats import Format
from qsim.config import RunConfig
from qsim.delayed_scaling import PART, Histories
from qsim.devices import Devices, Kind, Kinds, OneDevice
from qsim.executors import on_hardware
from qsim.faults import Fault
from qsim.heap import keep_freed_memory
from qsim.model import loss_and_gradients
from qsim.optimizer import adamw, clip_factor, global_norm
from qsim.policy import Arithmetic
from qsim.recorders import Recorder
from qsim.sharding import plain_key
from qsim.sites import Calculator
from qsim.swallowed import Update
from qsim.tensor_counts import count_tensors

Array = Any
Tree = dict[str, Array]
State = dict[str, Tree]
_RESULTS = ("loss", "gradients", "gradient_norm", "finite", "proved")


def training_step(
    ar: Calculator, config: RunConfig, state: State, batch: tuple[Array, Array], scalars: Tree, keys: Any
) -> tuple[State, dict[str, Any]]:
    """The state after one step, and what is recorded of it.

    state: ``parameters`` (the master, or the working copy where there is none), ``first``, ``second`` by name, and
    ``absmax`` where the policy scales by histories.
    The gradients returned are unscaled and reduced, before clipping.  Where one is not finite the state stays as it
    was.
    """
    keys = ar.draw_from(keys)
    ar.histories = Histories.of_state(state.get(PART, {}))
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
    if ar.policy.delays:
        updated[PART] = ar.histories.after(ar)
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
    it.  ``counts_tensors``: the results hold ``tensors``, what ``qsim.tensor_counts`` counts of them.  ``faults``:
    planted in every call.  ``donates``: a state of JAX arrays is gone after the call, and the next
    one has its memory.  ``hardware``: as ``qsim.executors.on_hardware`` is asked.
    """

    def __init__(
        self,
        config: RunConfig,
        policy: Arithmetic,
        executor: str,
        recorder: Callable[[], Recorder] | None = None,
        devices: Devices | None = None,
        faults: Sequence[Fault] = (),
        *,
        donates: bool = False,
        hardware: bool | None = None,
        counts_tensors: bool = False,
    ) -> None:
        self.counts_tensors = counts_tensors
        self.hardware = on_hardware(policy, executor, hardware)
        self.faults, self._donated = faults, (0,) if donates else ()
        if executor != "jax":
            keep_freed_memory()
        self.config, self.policy, self.executor, self.recorder = config, policy, executor, recorder
        self.devices = devices or OneDevice(executor)
        self.formats: dict[str, Format] = {}
        self.roundings: dict[tuple[str, int], str] = {}  # asked for by what was traced last: ``qsim.named_sites``
        self.shared_parts = config.data.accumulation
        self._speculative: Any = self._compiled(True)
        self._certain = self._compiled(False)

    def _compiled(self, speculative: bool) -> Callable:
        names = (*_RESULTS, *(["records"] if self.recorder else []), *(["tensors"] if self.counts_tensors else []))
        results: Kinds = dict.fromkeys(names, "same") | {"gradients": "parameters"}
        inputs: tuple[Kind, ...] = ("state", "batch", "same", "same")
        return self.devices.compiled(partial(self._run, speculative), inputs, ("state", results), self._donated)

    def __call__(
        self, state: State, batch: tuple[Array, Array], scalars: Tree, keys: Any
    ) -> tuple[State, dict[str, Any]]:
        state, batch = self._placed(state, batch)
        new, results = self._speculative(state, batch, scalars, keys)
        if not results["proved"]:
            new, results = self._certain(new, batch, scalars, keys)
        return new, results

    def compile_ahead(self, state: State, batch: tuple[Array, Array], scalars: Tree, keys: Any) -> int | None:
        """Compile for inputs of these shapes; the bytes that a device then holds, None where nothing is compiled.

        Arguments, results and temporaries, what the results take over from the arguments counted once.
        """
        if not hasattr(self._speculative, "lower"):
            return None
        self._speculative = self.lowered(state, batch, scalars, keys).compile()
        sizes = self._speculative.memory_analysis()
        held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes + sizes.temp_size_in_bytes
        return held - sizes.alias_size_in_bytes

    def lowered(self, state: State, batch: tuple[Array, Array], scalars: Tree, keys: Any) -> Any:
        """JAX's, of inputs of these shapes: ``compile`` of it gives what a call runs."""
        return self._speculative.lower(*self._placed(state, batch), scalars, keys)

    def _placed(self, state: State, batch: tuple[Array, Array]) -> tuple[State, tuple[Array, Array]]:
        return self.devices.place(state, "state"), self.devices.place(batch, "batch", self.shared_parts)

    def _tensors(self, ar: Calculator, update: Update, gradients: Tree) -> dict[str, Tree]:
        if ar.hardware:
            update, gradients = replace(update, after=ar.backend.widened(update.after)), ar.backend.widened(gradients)
        quiet = Calculator(self.policy, self.executor, shards=ar.shards, hardware=ar.hardware)
        return count_tensors(quiet, self.config.optimizer, update, gradients)

    def _run(self, speculative: bool, state: State, batch: tuple[Array, Array], scalars: Tree, keys: Any) -> Any:
        observer = self.recorder() if self.recorder else None
        shards = self.devices.shards.for_computation(self.shared_parts)
        ar = Calculator(
            self.policy,
            self.executor,
            observer,
            speculative=speculative,
            shards=shards,
            faults=self.faults,
            hardware=self.hardware,
        )
        new, results = training_step(ar, self.config, state, batch, scalars, keys)
        ar.check_faults()
        if ar.names is not None:
            self.roundings = ar.names.roundings
        if self.counts_tensors:
            update = Update(before=state["parameters"], after=new, scalars=scalars, keys=keys)
            results["tensors"] = self._tensors(ar, update, results["gradients"])
        proved = shards.everywhere(ar.proved())
        if ar.proofs:  # what follows from a disproved attempt is where it began
            new = {
                part: {name: ar.xp.where(proved, w, state[part][name]) for name, w in tree.items()}
                for part, tree in new.items()
            }
        if observer:
            self.formats.update({plain_key(key): fmt for key, fmt in observer.formats.items()})
            results["records"] = shards.totals(observer.results(ar.backend))
        results["proved"] = proved
        return ar.backend.widened((new, results)) if ar.hardware else (new, results)
