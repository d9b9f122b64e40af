"""The loop: batches, steps, hashes, statistics and checkpoints into a run folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from precision.formats import Format
from precision.statistics import Statistics
from qsim import swallowed, tensor_counts
from qsim.checkpointing import check_form, checkpoints_of
from qsim.checkpoints import Checkpoint, load_last_checkpoint
from qsim.config import RunConfig
from qsim.data import Corpus, build_corpus, check_corpus, save_data, validation_batches
from qsim.delayed_scaling import PART, Histories
from qsim.devices import Devices, OneDevice, find_devices
from qsim.draws import output_keys
from qsim.executors import on_hardware
from qsim.fault_elements import check_elements
from qsim.faults import Fault, check_faults
from qsim.hashing import step_hashes
from qsim.interruption import Interrupted, Stop, graceful
from qsim.layers import cross_entropy_forward
from qsim.loss_scales import needed_scales
from qsim.mesh import Mesh
from qsim.model import forward
from qsim.policy import Arithmetic, parse_policy
from qsim.position import FirstWeights, Position, State, advance, batch_of, fitting, inputs_of, start
from qsim.progress import Progress, silent
from qsim.recorders import StackedRecorder, by_layer
from qsim.runs import FollowedRun, RunError, RunFolder, require_new
from qsim.schedules import learning_rate
from qsim.sites import Calculator
from qsim.step import Step
from qsim.what_if import what_if


def train(
    run: RunFolder,
    corpus: Corpus,
    *,
    begin: Position | None = None,
    resume: bool = False,
    progress: Callable[..., Progress] = silent,
    mesh: Mesh | None = None,
) -> RunFolder:
    """Carry a run to its last step.

    begin: where it starts, drawn from the seed unless given.  resume: go on from the last whole checkpoint.
    mesh: devices to compute on, one unless given; no hash depends on it.  Of several processes all call this, and
    the first writes the folder.
    Errors: DataError for a corpus that is too short, RunError for a run that cannot be resumed, ConfigError for a
    mesh that does not fit; Interrupted, with the last step saved, where SIGINT or SIGTERM asked for the end
    (``qsim.interruption``).
    """
    config, policy, executor = run.config, run.policy, run.executor
    _check_corpus(corpus, config)
    devices = find_devices(config, policy, executor, mesh)
    faults = run.faults
    check_faults(faults, config, policy, 1 if mesh is None else mesh.count)
    if not devices.writes:
        run, progress = FollowedRun(run.path, config, policy, executor), silent
    loop = _Loop(run, config, policy, executor, corpus, devices, faults)
    position = loop.resume() if resume else begin or start(config, policy, devices=devices)
    position.state = fitting(policy, position.state)
    with loop.leaving_nothing_begun():
        if not resume:
            loop.checkpoint(position)
        with graceful() as stop, progress(policy.name, position.step, config.steps) as bar:
            while position.step < config.steps:
                loss = loop.advance(position)
                bar.update(position.step, loss)
                loop.heed(stop, position)
        loop.finish(position)
    return run


def train_new(
    out: Path,
    config: RunConfig,
    policy: str | Arithmetic,
    executor: str,
    text: Sequence[Path] | None,
    *,
    progress: Callable[..., Progress] = silent,
    mesh: Mesh | None = None,
    faults: Sequence[Fault] = (),
    weights: FirstWeights | None = None,
    corpus: Corpus | None = None,
) -> RunFolder:
    """A new run on the embedded corpus or on the given text; ``mesh`` as in ``train``, ``faults`` planted in it.

    weights: what it starts from, drawn from the seed unless given.  corpus: the tokens themselves, in place of text.
    """
    arithmetic = parse_policy(policy)
    devices = find_devices(config, arithmetic, executor, mesh)
    check_faults(faults, config, arithmetic, 1 if mesh is None else mesh.count)
    check_elements(faults, config, arithmetic)
    check_form(config.record.checkpoints)
    if devices.writes:
        require_new(out)
    corpus = corpus_of(config, text) if corpus is None else corpus
    _check_corpus(corpus, config)
    begin = start(config, arithmetic, weights, devices)
    if not devices.writes:
        return train(FollowedRun(out, config, arithmetic, executor), corpus, begin=begin, mesh=mesh)
    run = RunFolder.create(out, config, arithmetic, executor, mesh=mesh, faults=faults, weights=weights)
    save_data(run.path, corpus)
    return train(run, corpus, begin=begin, progress=progress, mesh=mesh)


def corpus_of(config: RunConfig, text: Sequence[Path] | None) -> Corpus:
    """The corpus that a configuration makes of text, the embedded one without any."""
    return build_corpus(
        text,
        tokenizer=config.data.tokenizer,
        vocabulary_size=config.model.vocabulary,
        held_out_fraction=config.data.held_out,
        tokenizer_model=None if config.data.tokenizer_model is None else Path(config.data.tokenizer_model),
        dtype=config.data.token_dtype,
    )


def _check_corpus(corpus: Corpus, config: RunConfig) -> None:
    check_corpus(
        corpus,
        batch_size=config.data.batch_size,
        length=config.model.length,
        vocabulary_size=config.model.vocabulary,
        order=config.data.order,
    )


class _Loop:
    """The steps of one run."""

    def __init__(
        self,
        run: RunFolder,
        config: RunConfig,
        policy: Arithmetic,
        executor: str,
        corpus: Corpus,
        devices: Devices,
        faults: Sequence[Fault],
    ) -> None:
        self.faults = faults
        self.run, self.config, self.policy, self.executor, self.corpus = run, config, policy, executor, corpus
        self.devices = devices
        self.plain = Step(config, policy, executor, devices=devices, donates=True)
        self.counting = Step(config, policy, executor, StackedRecorder, devices, donates=True, counts_tensors=True)
        self.checkpoints = checkpoints_of(config.record.checkpoints, run.path, devices)
        self.saved: int | None = None  # the step of the last checkpoint

    def advance(self, position: Position) -> float:
        """One step: computed, hashed, recorded, and where it is due counted and saved."""
        config, number = self.config, position.step + 1
        began = time.perf_counter()
        every = config.record.statistics_every
        counts = _due(every, number) or (every > 0 and number in (1, config.steps))
        counts &= not self.policy.identity  # which rounds nothing that could be counted
        step = self._step(number, counts)
        scale = position.scale.scale
        inputs = inputs_of(config, self.policy, position, self._batch(number))
        results = advance(position, self.policy, step, inputs)
        loss, finite = float(results["loss"]), bool(results["finite"])
        if counts:
            self._write_statistics(number, step, results)
        if _due(config.record.hash_every, number) and not self.plain.hardware:  # which promises none
            self._write_hashes(number, results, position.state)
        self.run.append(
            "metrics.jsonl",
            {
                "step": number,
                "loss": loss,
                "learning_rate": learning_rate(config.optimizer, number, config.steps),
                "gradient_norm": float(results["gradient_norm"]),
                "loss_scale": scale,
                "skipped": not finite,
                "seconds": round(time.perf_counter() - began, 6),
            },
        )
        if _due(config.record.checkpoint_every, number) or number == config.steps:
            self.checkpoint(position)
        return loss

    def _batch(self, number: int) -> tuple[Any, Any]:
        shape = self.config.data.batch_size, self.config.model.length
        rows = partial(batch_of, self.config, self.corpus, number)
        return self.devices.batch(rows, shape, self.plain.shared_parts)

    def _step(self, number: int, counts: bool) -> Step:
        planted = [fault for fault in self.faults if fault.step == number]
        if not planted:
            return self.counting if counts else self.plain
        recorder = StackedRecorder if counts else None
        return Step(
            self.config, self.policy, self.executor, recorder, self.devices, planted, counts_tensors=counts
        )  # fmt: skip

    def _write_statistics(self, step: int, counting: Step, results: dict[str, Any]) -> None:
        if self.devices.writes:
            sites, more = step_statistics(counting, results)
            self.run.write_statistics(step, sites, **more)

    def _write_hashes(self, step: int, results: dict[str, Any], state: State) -> None:
        gradients, state = self.devices.on_host(results["gradients"]), self._on_host(state)
        if self.devices.writes:
            self.run.append("hashes.jsonl", step_hashes(step, results | {"gradients": gradients}, state))

    def _on_host(self, state: State) -> dict[str, dict[str, np.ndarray]]:
        return {part: self.devices.on_host(tree) for part, tree in sorted(state.items())}

    def heed(self, stop: Stop, position: Position) -> None:
        """Where a signal asks for the end, of this process or of another: the step saved, then Interrupted."""
        number = self.devices.largest_of_processes(stop.signal or 0)
        if number == 0:
            return
        if position.step != self.saved:
            self.checkpoint(position)
        self.checkpoints.wait()
        raise Interrupted(number)

    def checkpoint(self, position: Position) -> None:
        self.saved = position.step
        if self.devices.writes:
            self.run.sync()
        self.checkpoints.save(
            Checkpoint(
                step=position.step,
                updates=position.updates,
                scale=position.scale,
                state=position.state,
                policy_sha256=self.policy.sha256,
                data_sha256=self.corpus.sha256,
            )
        )

    @contextmanager
    def leaving_nothing_begun(self) -> Iterator[None]:
        """An error inside comes out when what is being written is there, or has failed, too.

        Not of several processes: one that is gone would be waited for.
        """
        try:
            yield
        except BaseException:
            if self.devices.processes == 1:
                with suppress(OSError):
                    self.checkpoints.wait()
            raise

    def resume(self) -> Position:
        """The last whole checkpoint, everything recorded after it dropped."""
        saved = load_last_checkpoint(self.run.path, self.devices)
        if saved is None:
            raise RunError(f"run {str(self.run.path)!r} has no checkpoint to resume from; start it anew elsewhere")
        if saved.policy_sha256 != self.policy.sha256 or saved.data_sha256 != self.corpus.sha256:
            raise RunError(f"the checkpoint of run {str(self.run.path)!r} is of another policy or other data")
        self.run.cut_after(saved.step)
        return Position.of(saved)

    def finish(self, position: Position) -> None:
        """Held-out loss under the run's own arithmetic."""
        parameters, histories = position.state["parameters"], position.state.get(PART)
        loss = held_out_loss(
            self.config, self.policy, self.executor, parameters, self.corpus, self.devices, histories=histories
        )
        self.checkpoints.wait()  # a run is finished by the line below
        self.run.append("metrics.jsonl", {"step": position.step, "validation_loss": loss})


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def step_statistics(counting: Step, results: dict[str, Any]) -> tuple[dict[str, Statistics], dict[str, Any]]:
    """What a run keeps of a step that counted tensors, too: statistics by site, the rest by its key in the file."""
    policy, counts = counting.policy, results["tensors"]
    sizes = tensor_counts.sizes(results["gradients"])
    updates = tensor_counts.updates(counts) if results["finite"] else None
    more = {
        "scales": needed_scales(policy, tensor_counts.ends(counts)),
        "swallowed": None if updates is None else swallowed.as_json(policy, sizes, updates),
        "what_if": what_if(sizes, tensor_counts.tables(counts)),
    }
    return as_statistics(results["records"], counting.formats), more


def as_statistics(records: dict[str, Any], formats: dict[str, Format]) -> dict[str, Statistics]:
    """A recorder's arrays as ``Statistics`` by site."""
    return {
        name: Statistics.from_counts(formats[key], *counts)
        for key, record in records.items()
        for name, counts in by_layer(key, record)
    }


def held_out_loss(
    config: RunConfig,
    policy: Arithmetic,
    executor: str,
    parameters: dict[str, Any],
    corpus: Corpus,
    devices: Devices | None = None,
    *,
    histories: dict[str, Any] | None = None,
) -> float:
    """Mean loss over the first held-out batches, forward pass only, without dropout.

    histories: the state's part that a policy of delayed scaling reads.
    """
    histories = histories or {}
    batches = validation_batches(
        corpus,
        batch_size=config.data.batch_size,
        length=config.model.length,
        limit=config.data.validation_batches,
    )
    whole = [pair for pair in batches if len(pair[0]) == config.data.batch_size]
    if devices is None:
        devices = OneDevice(executor)
    elif not whole:  # rows that the devices might not share evenly
        parameters, histories = devices.on_host(parameters), devices.on_host(histories)
        devices = OneDevice(executor)

    def loss_of(parameters: dict[str, Any], pair: tuple[Any, Any], histories: dict[str, Any]) -> Any:
        tokens, targets = pair
        hardware = on_hardware(policy, executor)
        calculator = Calculator(policy, executor, shards=devices.shards.for_computation(), hardware=hardware)
        calculator.draw_from(output_keys(policy, config.model.layers, config.seed, 0))
        calculator.histories = Histories.of_state(histories)
        logits, _ = forward(calculator, config.model, calculator.working_copy(parameters), tokens)
        return cross_entropy_forward(calculator, logits, targets.reshape(-1), 1)[0]

    compiled = devices.compiled(loss_of, ("parameters", "batch", "same"), "same")
    parameters = devices.place(parameters, "parameters")
    losses = [float(compiled(parameters, devices.place(pair, "batch"), histories)) for pair in whole or batches[:1]]
    return float(np.mean(losses))
