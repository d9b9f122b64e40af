"""What a row says of a finished run: losses before and after quantization, mechanism metrics, what training lost."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import logsumexp

import precision as pr
from experiments.quantizing import EARLY, INT8, PRE, SCHEMES, Evaluation, evaluated_as
from experiments.rows import Row
from experiments.variant import MEASUREMENT, Training
from qsim.checkpoints import load_checkpoint
from qsim.data import Corpus, validation_batches
from qsim.report.recorded import HASHED, Run, read_run
from qsim.runs import RunFolder, environment

OUTLIER = 6.0  # the magnitude of LLM.int8()'s criterion
WATCHED = {"qkv": "layernorm_1", "mlp_up": "layernorm_2"}  # the paper's attn-kqv-proj and outer-expander-mlp
_GRADIENTS = ("dgrad", "wgrad")


def measured_row(training: Training, run: RunFolder, corpus: Corpus, scale: str) -> Row:
    """The row of a training whose run is finished."""
    read = read_run(run.path)
    seconds = sum(read.column("seconds").values())
    row = {"key": training.key(corpus.sha256), "measurement": MEASUREMENT, "label": training.label, "scale": scale}
    row |= {"policy": training.policy.name, "policy_sha256": training.policy_sha256, "data_sha256": corpus.sha256}
    row |= {"seed": training.config.seed, "config": run.record()["config"], "executor": training.executor}
    row |= {"hashes": {name: read.hashes[training.config.steps][name] for name in HASHED}}
    row |= {"seconds": round(seconds, 3), "seconds_per_step": round(seconds / training.config.steps, 6)}
    row |= {"unigram_entropy": round(unigram_entropy(corpus), 6), "training": _training(read)}
    row["checkpoints"] = {str(step): measured(training, run, corpus, step) for step in training.measured}
    return row | {"environment": environment()}


def unigram_entropy(corpus: Corpus) -> float:
    """Nats a token of the held-out text would cost a model that knows the training text's frequencies alone.

    Cross-entropy, every token counted once more than it occurs, so that one that training never saw is no infinity.
    """
    counts = np.bincount(corpus.train, minlength=corpus.vocabulary_size) + 1.0
    return float(-np.log(counts / counts.sum())[corpus.validation].mean())


def _training(read: Run) -> dict[str, Any]:
    """Losses, skipped steps, and by site and pass what the sampled steps rounded away, layers together."""
    events: dict[str, Counter[str]] = {}
    for site in read.sites:
        found = events.setdefault(f"{site.site}.{site.kind}", Counter())
        found.update({k: site.counts[k] for k in ("nonzero", "underflowed", "became_subnormal", "overflowed")})
    swallowed: Counter[str] = Counter()
    for tensor in read.swallowed:
        swallowed.update({name: tensor.counts[name] for name in ("updates", "swallowed")})
    lost, nonzero = (read.total(name, _GRADIENTS) for name in ("underflowed", "nonzero"))
    return {
        "losses": {str(step): round(loss, 6) for step, loss in read.losses.items() if step in read.hashes},
        "skipped_steps": len(read.skipped),
        "loss_scale": read.scales[max(read.scales)],
        "sampled_steps": len(read.sampled),
        "gradients_underflowed": lost,
        "gradients_nonzero": nonzero,
        "events": {name: dict(found) for name, found in sorted(events.items()) if found["nonzero"]},
        "swallowed": dict(swallowed),
    }


def measured(training: Training, run: RunFolder, corpus: Corpus, step: int) -> dict[str, Any]:
    """Of the checkpoint of a step: by scheme losses of every sequence and accuracy of the next token; metrics."""
    parameters = load_checkpoint(run.path, step).state["parameters"]
    tokens, targets = _sequences(training, corpus)
    own = evaluated_as(training.policy)
    schemes = SCHEMES if step == training.config.steps else EARLY
    finite = all(np.isfinite(w).all() for w in parameters.values())
    losses: dict[str, list[float]] = {}
    accuracy: dict[str, float] = {}
    for scheme in (PRE, *schemes):
        if finite:
            evaluation = Evaluation(training.config.model, parameters, own, training.executor, scheme)
            losses[scheme], accuracy[scheme] = _evaluated(evaluation, tokens, targets, training)
        else:
            losses[scheme], accuracy[scheme] = [float("nan")] * len(tokens), float("nan")
    layers = _metrics(training, parameters, tokens) if finite else []
    return {"evaluated_as": own.name, "losses": losses, "accuracy": accuracy, "layers": layers}


def _sequences(training: Training, corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """The first sequences of the held-out part, (N, T) each."""
    length = training.config.model.length
    found = validation_batches(corpus, batch_size=training.sequences, length=length, limit=1)
    return found[0]


def _evaluated(
    evaluation: Evaluation, tokens: np.ndarray, targets: np.ndarray, training: Training
) -> tuple[list[float], float]:
    losses, right, size = [], 0, training.config.data.batch_size
    for first in range(0, len(tokens), size):
        part = targets[first : first + size]
        logits = evaluation.logits(tokens[first : first + size]).astype(np.float64)
        chosen = np.take_along_axis(logits, part[..., None], axis=-1)[..., 0]
        with np.errstate(invalid="ignore"):
            losses += list((logsumexp(logits, axis=-1) - chosen).mean(axis=-1))
        right += int((logits.argmax(axis=-1) == part).sum())
    return [round(float(loss), 6) for loss in losses], round(right / targets.size, 6)


def _metrics(training: Training, parameters: dict[str, np.ndarray], tokens: np.ndarray) -> list[dict[str, Any]]:
    """Of every layer and of the inputs to both its first linear layers, over the first batch of sequences."""
    heard: dict[tuple[int, str], np.ndarray] = {}

    def listener(layer: int | None, place: str, x: Any) -> None:
        if layer is not None and place.removesuffix(".input") in WATCHED:
            heard[layer, place.removesuffix(".input")] = np.asarray(x, np.float32)

    executor = "numba" if training.executor == "jax" else training.executor  # the listener hears no tracers
    own = evaluated_as(training.policy)
    evaluation = Evaluation(training.config.model, parameters, own, executor, PRE)
    evaluation.logits(tokens[: training.config.data.batch_size], listener)
    return [
        {"layer": layer, "site": site}
        | of_activations(x)
        | {"std_gain": _figure(parameters[f"blocks.{WATCHED[site]}.gain"][layer].std(dtype=np.float64))}
        | {"spectral_norm": _figure(np.linalg.norm(parameters[f"blocks.{site}.weight"][layer].astype(float), 2))}
        for (layer, site), x in sorted(heard.items())
    ]


def of_activations(x: np.ndarray) -> dict[str, float]:
    """Of (N, k): RMSE of INT8 by rows, mean over rows of the standard deviation, kurtosis, largest magnitude, and
    how many columns hold a magnitude of 6 or more in at least 6 % of the rows."""
    exact = x.reshape(-1, x.shape[-1]).astype(np.float64)
    back = pr.quantize(x.reshape(exact.shape), INT8, axis=-1, nonfinite="propagate").dequantize()
    often = (np.abs(exact) >= OUTLIER).mean(axis=0) >= 0.06
    return {
        "rmse": _figure(np.sqrt(np.mean((exact - back) ** 2))),
        "std": _figure(exact.std(axis=-1).mean()),
        "kurtosis": _figure(stats.kurtosis(exact, axis=None, fisher=False)),
        "largest": _figure(np.abs(exact).max()),
        "outlier_columns": int(often.sum()),
    }


def _figure(value: Any) -> float:
    return float(f"{float(value):.6g}")
