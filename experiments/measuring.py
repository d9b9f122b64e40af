"""What a row says of a finished run: losses before and after quantization, mechanism metrics, what training lost."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import mechanism
from experiments.answering import ANSWERED, answered, asked, tasks_of, unanswered
from experiments.quantizing import EARLY, PRE, SCHEMES, Evaluation, ModelError, evaluated_as, model_of, quantized
from experiments.rows import Row
from experiments.variant import MEASUREMENT, Training
from qsim.checkpoints import load_checkpoint
from qsim.data import Corpus, validation_batches
from qsim.hashing import tree_hash
from qsim.importing import Model
from qsim.report.recorded import HASHED, Run, read_run
from qsim.runs import RunFolder, environment

_GRADIENTS = ("dgrad", "wgrad")


def measured_row(training: Training, run: RunFolder, corpus: Corpus, scale: str) -> Row:
    """The row of a training whose run is finished."""
    read = read_run(run.path)
    seconds = sum(read.column("seconds").values())
    row = {"key": training.key(corpus.sha256), "measurement": MEASUREMENT, "label": training.label, "scale": scale}
    row |= {"policy": training.policy.name, "policy_sha256": training.policy_sha256, "data_sha256": corpus.sha256}
    row |= {"seed": training.config.seed, "config": run.record()["config"], "executor": training.executor}
    row |= {"hashes": _hashes(training, run, read)}
    row |= {"seconds": round(seconds, 3), "seconds_per_step": round(seconds / training.config.steps, 6)}
    row |= {"unigram_entropy": round(unigram_entropy(corpus), 6), "training": _training(read, training.measured)}
    row["asked"] = asked(tasks_of(corpus, training.config.model.length))
    row["checkpoints"] = {str(step): measured(training, run, corpus, step) for step in training.measured}
    return row | {"environment": environment()}


def _hashes(training: Training, run: RunFolder, read: Run) -> dict[str, str]:
    """Of the last step; where the run promises none, of the parameters that it ended with."""
    last = training.config.steps
    if last in read.hashes:
        return {name: read.hashes[last][name] for name in HASHED}
    return {"parameters": tree_hash(load_checkpoint(run.path, last).state["parameters"])}


def unigram_entropy(corpus: Corpus) -> float:
    """Nats a token of the held-out text would cost a model that knows the training text's frequencies alone.

    Cross-entropy, every token counted once more than it occurs, so that one that training never saw is no infinity.
    """
    counts = np.bincount(corpus.train, minlength=corpus.vocabulary_size) + 1.0
    return float(-np.log(counts / counts.sum())[corpus.validation].mean())


def _training(read: Run, measured: Sequence[int]) -> dict[str, Any]:
    """Losses of hashed and measured steps, skipped steps, and what the sampled steps rounded away.

    By site and pass, layers together.
    """
    events: dict[str, Counter[str]] = {}
    for site in read.sites:
        found = events.setdefault(f"{site.site}.{site.kind}", Counter())
        found.update({k: site.counts[k] for k in ("nonzero", "underflowed", "became_subnormal", "overflowed")})
    swallowed: Counter[str] = Counter()
    for tensor in read.swallowed:
        swallowed.update({name: tensor.counts[name] for name in ("updates", "swallowed")})
    kept = {*read.hashes, *measured}
    lost, nonzero = (read.total(name, _GRADIENTS) for name in ("underflowed", "nonzero"))
    return {
        "losses": {str(step): round(loss, 6) for step, loss in read.losses.items() if step in kept},
        "skipped_steps": len(read.skipped),
        "loss_scale": read.scales[max(read.scales)],
        "sampled_steps": len(read.sampled),
        "gradients_underflowed": lost,
        "gradients_nonzero": nonzero,
        "events": {name: dict(found) for name, found in sorted(events.items()) if found["nonzero"]},
        "swallowed": dict(swallowed),
    }


def measured(training: Training, run: RunFolder, corpus: Corpus, step: int) -> dict[str, Any]:
    """Of the checkpoint of a step.

    losses, right: by scheme, the mean loss of every sequence in nats a token and how many next tokens it got right.
    layers, and of the last step ``whole``: see ``experiments.mechanism``; tasks: see ``experiments.answering``.
    A model that is not finite has NaN for losses and no layers.
    """
    parameters = load_checkpoint(run.path, step).state["parameters"]
    model, own = model_of(training, parameters, corpus), evaluated_as(training.policy)
    last = step == training.config.steps
    found: dict[str, Any] = {"evaluated_as": own.name, "losses": {}, "right": {}, "tasks": {}}
    for scheme in (PRE, *(SCHEMES if last else EARLY)):
        one = _under(scheme, model, training, corpus)
        found["losses"][scheme], found["right"][scheme] = _evaluated(one, training, corpus)
        if last and scheme in ANSWERED:
            found["tasks"][scheme] = _answered(one, training, corpus)
    if all(np.isfinite(w).all() for w in parameters.values()):
        analysis = mechanism.analyzed(model, own, _sequences(training, corpus)[0])
        found["layers"] = mechanism.layers(analysis, early=not last)
        found |= mechanism.whole(analysis) if last else {}
    return found | {"layers": found.get("layers", [])}


def _under(scheme: str, model: Model, training: Training, corpus: Corpus) -> Evaluation | None:
    """None where the model is not finite, so that it gets no codes."""
    own = evaluated_as(training.policy)
    try:
        used = model if scheme == PRE else quantized(model, scheme, own, corpus)
    except ModelError:
        return None
    return Evaluation(model=used, policy=own, executor=training.executor)


def _sequences(training: Training, corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """The first sequences of the held-out part, (N, T) each."""
    length = training.config.model.length
    found = validation_batches(corpus, batch_size=training.sequences, length=length, limit=1)
    return found[0]


def _evaluated(one: Evaluation | None, training: Training, corpus: Corpus) -> tuple[list[float], list[int]]:
    """Of every sequence."""
    tokens, targets = _sequences(training, corpus)
    if one is None:
        return [float("nan")] * len(tokens), [0] * len(tokens)
    losses, right, size = [], [], training.config.data.batch_size
    with np.errstate(all="ignore"):  # a model that diverged
        for first in range(0, len(tokens), size):
            part = slice(first, first + size)
            of_tokens, hits = one.scored(tokens[part], targets[part])
            losses += of_tokens.mean(axis=-1).tolist()
            right += hits.sum(axis=-1).tolist()
    return [round(loss, 6) for loss in losses], right


def _answered(one: Evaluation | None, training: Training, corpus: Corpus) -> dict[str, Any]:
    """On Numba, for which sequences of any length are no new program."""
    tasks = tasks_of(corpus, training.config.model.length)
    if one is None:
        return unanswered(tasks)
    executor = "numba" if one.executor == "jax" else one.executor
    with np.errstate(all="ignore"):
        return answered(dataclasses.replace(one, executor=executor), tasks)
