"""Rows made: each trained in a run folder of its own, measured, and added to the store.

A row that another process is making is passed over.  Where a signal or the time limit ends the work, trainings stop
after saving the step they are at, and the same command goes on from there.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from experiments.measuring import measured_row
from experiments.rows import Store, claimed
from experiments.variant import Training
from qsim.bench.threads import limited
from qsim.checkpoints import checkpoint_path, load_checkpoint, saved_steps
from qsim.data import Corpus, load_data, reference_data
from qsim.hashing import tree_hash
from qsim.interruption import Interrupted, raising_on_termination
from qsim.position import FirstWeights, start
from qsim.runs import RunFolder
from qsim.training import train


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where rows are made.  out: store and data.  work: run folders.  deadline: of ``time.time``, None for none."""

    out: Path
    work: Path
    scale: str
    deadline: float | None = None

    @property
    def expired(self) -> bool:
        return self.deadline is not None and time.time() >= self.deadline


def make(trainings: Sequence[Training], place: Place) -> None:
    """Make the rows that are not there, one after another, in this process.  Interrupted where a signal ends it."""
    if place.expired:
        return
    try:
        with _ending_at(place.deadline):
            _make(trainings, place)
    except Interrupted:
        if not place.expired:
            raise


def _make(trainings: Sequence[Training], place: Place) -> None:
    corpus, store = load_data(place.out / "data"), Store(place.out)
    for training in trainings:
        key = training.key(corpus.sha256)
        with claimed(place.work / f"{key}.lock") as mine:
            if not mine or key in store.rows():
                continue
            row = measured_row(training, trained(training, corpus, place), corpus, place.scale)
            store.add(row)
            _drop_early_checkpoints(place.work / key)
            _say(training, row["seconds"])


def _say(training: Training, seconds: float) -> None:
    print(f"{training.label}, seed {training.config.seed}: {seconds:.0f} s", file=sys.stderr, flush=True)


def trained(training: Training, corpus: Corpus, place: Place) -> RunFolder:
    """The finished run of a training: as it is there, carried on, or new."""
    path = place.work / training.key(corpus.sha256)
    if not saved_steps(path):  # nothing, or what was killed before its first checkpoint
        shutil.rmtree(path, ignore_errors=True)
        weights = None if training.start is None else _last_weights(training.start, corpus, place)
        run = RunFolder.create(path, training.config, training.policy, training.executor, weights=weights)
        reference_data(path, corpus, place.out / "data")
        return train(run, corpus, begin=start(training.config, training.policy, weights))
    run = RunFolder.open(path)
    return run if run.finished else train(run, corpus, resume=True)


def _last_weights(training: Training, corpus: Corpus, place: Place) -> FirstWeights:
    """What a training ended with; it is waited for where another process makes it, made again where it is gone."""
    key = training.key(corpus.sha256)
    with claimed(place.work / f"{key}.lock", wait=True):
        run = trained(training, corpus, place)
    parameters = load_checkpoint(run.path, training.config.steps).state["parameters"]
    return FirstWeights(parameters=parameters, source=f"row {key}", sha256=tree_hash(parameters))


def _drop_early_checkpoints(path: Path) -> None:
    """All but the last one, once what is measured of them stands in a row."""
    for step in saved_steps(path)[:-1]:
        shutil.rmtree(checkpoint_path(path, step))


@contextmanager
def _ending_at(deadline: float | None) -> Iterator[None]:
    """Inside, this process is asked to end at the deadline as SIGTERM asks it."""
    if deadline is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    timer = threading.Timer(max(0.0, deadline - time.time()), os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    with raising_on_termination():
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def make_side_by_side(trainings: Sequence[Training], place: Place, jobs: int) -> None:
    """The same by several processes, the cores shared out among them.

    Interrupted or KeyboardInterrupt, once all have saved and ended, where a signal asks this process to end.
    RuntimeError where one of them failed.
    """
    spawn = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // jobs)
    processes = [spawn.Process(target=_work, args=(list(trainings), place, threads)) for _ in range(jobs)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        for process in processes:
            if process.is_alive():
                process.terminate()  # which a training heeds once its step is saved
        for process in processes:
            process.join()
        raise
    if any(process.exitcode not in (0, 128 + signal.SIGTERM) for process in processes):
        raise RuntimeError("a process that makes rows failed; what it said stands above")


def _work(trainings: Sequence[Training], place: Place, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent asks by SIGTERM
    try:
        with raising_on_termination(), limited(threads):
            make(trainings, place)
    except Interrupted as stopped:
        raise SystemExit(stopped.exit_code) from None
