"""Which rows experiments want, in what order, and what they will cost."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.answering import ANSWERED, ITEMS
from experiments.experiment import Experiment
from experiments.mechanism import TOKENS
from experiments.quantizing import EARLY, SCHEMES
from experiments.rows import Row
from experiments.scales import Scale
from experiments.variant import Training
from qsim.config import ConfigError, RunConfig, override_all
from qsim.data import Corpus, build_corpus, load_data, save_data
from qsim.position import advance, batch_of, inputs_of, start
from qsim.step import Step
from qsim.text_sources import read_bytes
from qsim.tokenizers import SentencePieceTokenizer

ANALYSIS = 4  # forward passes that an analysis takes as long as
FORWARD = 1 / 3  # of a step's cost: the backward pass has two products for each of the forward pass
TIMED = 2  # steps, after one that compiles
LARGEST = 3e7  # parameters of a model that is timed here; larger ones are told from a smaller one by operations


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A row: its training, who wants it, whether it is there, and seconds it takes."""

    training: Training
    key: str
    wanted_by: tuple[str, ...]
    done: bool
    seconds: float


def open_data(
    out: Path, config: RunConfig, text: Sequence[Path], tokenizer_model: Path | None = None, data: Path | None = None
) -> Corpus:
    """The corpus in ``out``/data; where nothing is there yet it is copied from the folder ``data``, or built from the
    text, the embedded one by default.

    text: documents, or ``.bin`` files of tokens; tokenizer_model: SentencePiece's, in place of one trained on the
    text, and what made the tokens of a ``.bin``, so that they have text.
    Errors: DataError where it is damaged, ConfigError where it is of other text or for another scale.
    """
    folder = out / "data"
    if (folder / "data.json").is_file():
        return _fitting(load_data(folder), folder, config, text)
    if data is not None:
        corpus = _fitting(load_data(data), data, config, text)
    else:
        corpus = _built(config, list(text), tokenizer_model)
    folder.mkdir(parents=True, exist_ok=True)
    save_data(folder, corpus)
    return corpus


def _built(config: RunConfig, text: list[Path], tokenizer_model: Path | None) -> Corpus:
    tokens = bool(text) and all(path.suffix.lower() == ".bin" for path in text)
    corpus = build_corpus(
        text or None,
        tokenizer="none" if tokens else config.data.tokenizer,
        vocabulary_size=config.model.vocabulary,
        held_out_fraction=config.data.held_out,
        tokenizer_model=None if tokens else tokenizer_model,
    )
    if tokenizer_model is not None:
        size = SentencePieceTokenizer(model=read_bytes(tokenizer_model)).vocabulary_size
        if size != config.model.vocabulary:
            raise ConfigError(
                f"--tokenizer-model {str(tokenizer_model)!r} has {size} tokens and the scale's models "
                f"{config.model.vocabulary}; give one of that size"
            )
    if not tokens or tokenizer_model is None:
        return corpus
    return dataclasses.replace(
        corpus, tokenizer="sentencepiece", tokenizer_model=read_bytes(tokenizer_model), file=None
    )


def _fitting(corpus: Corpus, folder: Path, config: RunConfig, text: Sequence[Path]) -> Corpus:
    if text and corpus.sources != tuple(map(str, text)):
        raise ConfigError(f"{folder} holds the text {', '.join(corpus.sources)}; choose another --out for other text")
    if corpus.tokenizer not in (config.data.tokenizer, "none") or corpus.vocabulary_size != config.model.vocabulary:
        what = f"{corpus.vocabulary_size} tokens by {corpus.tokenizer}"
        raise ConfigError(f"{folder} holds {what}, which another scale has; choose another --out")
    return corpus


Wanted = dict[str, tuple[Training, list[str]]]


def wanted(experiments: Iterable[Experiment], scale: Scale, data_sha256: str) -> Wanted:
    """Rows by key with the names of the experiments that want them: every one of a seed before the next seed."""
    found: Wanted = {}
    experiments = list(experiments)
    for seed in range(scale.seeds):
        for experiment in experiments:
            for variant in experiment.at(scale):
                training = variant.training(scale, seed)
                _, names = found.setdefault(training.key(data_sha256), (training, []))
                names += [experiment.name] if experiment.name not in names else []
    return found


def plan(experiments: Iterable[Experiment], scale: Scale, corpus: Corpus, rows: Mapping[str, Row]) -> list[Planned]:
    """Every row wanted, in the order in which they are made."""
    costs = _Costs(scale, corpus, rows)
    return [
        Planned(
            training=training,
            key=key,
            wanted_by=tuple(names),
            done=key in rows,
            seconds=0.0 if key in rows else costs.seconds(training),
        )
        for key, (training, names) in wanted(experiments, scale, corpus.sha256).items()
    ]


class _Costs:
    """Steps times measured seconds a step, and evaluations as forward passes.

    Seconds a step are the mean of finished rows of the same scale and policy, else of that scale, else timed now.
    """

    def __init__(self, scale: Scale, corpus: Corpus, rows: Mapping[str, Row]) -> None:
        self.scale, self.corpus = scale, corpus
        self.finished = [row for row in rows.values() if row["scale"] == scale.name]
        self._timed: float | None = None

    def seconds(self, training: Training) -> float:
        return self._per_step(training) * (training.config.steps + _evaluations(training))

    def _per_step(self, training: Training) -> float:
        same = [row for row in self.finished if row["policy_sha256"] == training.policy_sha256] or self.finished
        if same:
            return sum(row["seconds_per_step"] for row in same) / len(same)
        if self._timed is None:
            self._timed = seconds_per_step(training, self.corpus)
        return self._timed


def _evaluations(training: Training) -> float:
    """What is measured of a run, in steps: sequences and tasks under every scheme, and the analysis."""
    passes = len(training.measured) * (len(EARLY) + 1) + len(SCHEMES) - len(EARLY)
    rows = passes * training.sequences + len(ANSWERED) * (ITEMS["LAMBADA-like"] + 4 * ITEMS["next paragraph"])
    rows += ANALYSIS * len(training.measured) * TOKENS // training.config.model.length
    return FORWARD * rows / training.config.data.batch_size


def seconds_per_step(training: Training, corpus: Corpus) -> float:
    """Of a training, timed now; of a model too large for that, one of a layer of width 128 times their operations."""
    if training.config.model.parameters > LARGEST:
        small = {"model.layers": 1, "model.hidden": 128, "model.heads": 1, "model.length": 128}
        small |= {"model.vocabulary": corpus.vocabulary_size, "data.batch_size": 8}
        config = override_all(training.config, small.items())
        return _timed(training, config, corpus) * operations(training.config) / operations(config)
    return _timed(training, training.config, corpus)


def _timed(training: Training, config: RunConfig, corpus: Corpus) -> float:
    policy, began = training.policy, 0.0
    position, step = start(config, policy), Step(config, policy, training.executor)
    for number in range(1, TIMED + 2):
        if number == 2:
            began = time.perf_counter()
        results = advance(
            position, policy, step, inputs_of(config, policy, position, batch_of(config, corpus, number))
        )
        float(results["loss"])
    return (time.perf_counter() - began) / TIMED


def operations(config: RunConfig) -> float:
    """Multiplications of a step: 3 passes over the weights and the attention's products of every token."""
    model = config.model
    weights = model.layers * 12 * model.hidden**2 + model.vocabulary * model.hidden
    attention = 2 * model.layers * model.length * model.hidden
    return 3.0 * config.data.batch_size * model.length * (weights + attention)
