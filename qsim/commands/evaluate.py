"""``qsim evaluate``: perplexity and items of a model, before and after quantization."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precision.backends import BACKENDS
from qsim import strict_json
from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments
from qsim.config import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from qsim.evaluation import Comparison, Evaluation, LanguageModel, Task, TaskScore
    from qsim.evaluation.comparison import Interval, TaskComparison
    from qsim.importing import Model
    from qsim.policy import Arithmetic

_ITEMS = 50


def add(command: AddCommand) -> None:
    parser = command("evaluate", _evaluate, "perplexity and items of a model, before and after quantization")
    parser.add_argument("model", metavar="MODEL", help="a run, a checkpoint, a Hugging Face folder or a GGUF file")
    parser.add_argument("--policy", help="the arithmetic called pre; the model's own 16-bit format by default")
    parser.add_argument(
        "--scheme", dest="schemes", action="append", default=[], metavar="NAME",
        help="quantize linear layers so, and compare; several times for several, see qsim quantizers",
    )  # fmt: skip
    parser.add_argument("--executor", choices=BACKENDS, default="numba", help="default numba")
    parser.add_argument("--text", type=Path, nargs="+", metavar="PATH", help="default: what a run held out")
    parser.add_argument("--length", type=int, metavar="N", help="tokens of a window; what the model reads by default")
    parser.add_argument(
        "--stride", type=int, metavar="N", help="tokens from window to window; their length by default"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the first N tokens of the text alone")
    parser.add_argument(
        "--task", dest="tasks", action="append", default=[], metavar="KIND=FILE",
        help="items from a file of one JSON object a line; KIND: lambada, hellaswag, piqa, copa, storycloze, "
        "winogrande, qa or choice",
    )  # fmt: skip
    parser.add_argument("--limit-items", type=int, metavar="N", help="the first N items of each file alone")
    parser.add_argument(
        "--items", type=int, metavar="N",
        help=f"items of either kind that are made from the text, 0 for none; {_ITEMS} by default, 0 beside --task",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="draws the items made from the text")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for results.json and items.csv")


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Everything that is scored, under every arithmetic alike."""

    tokens: np.ndarray | None
    bytes: int | None
    source: str
    tasks: tuple[Task, ...]


def _evaluate(arguments: Arguments) -> int:
    from qsim.evaluation import DecoderLanguageModel, compare
    from qsim.evaluation.results import as_json, write_results
    from qsim.importing import open_model

    _check(arguments)
    model = open_model(arguments.model)
    arithmetics = list(_arithmetics(arguments, model))
    models = [DecoderLanguageModel(model, policy, arguments.executor) for policy in arithmetics]
    asked = _asked(arguments, model, models[0])
    names = ["pre", *arguments.schemes]
    found = [_scored(arguments, name, one, asked) for name, one in zip(names, models, strict=True)]
    compared = [compare(found[0], one) for one in found[1:]]
    head = _head(arguments, model, arithmetics[0], asked)
    values = as_json(found, compared)
    if arguments.out is not None:
        write_results(arguments.out, head, found, values)
    if arguments.json:
        print(strict_json.dumps(head | values, indent=1))
    else:
        _print(arguments, model, arithmetics[0], asked, found, compared)
    return 0


def _check(arguments: Arguments) -> None:
    for name in ("length", "stride", "limit", "limit-items"):
        value = getattr(arguments, name.replace("-", "_"))
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}; give at least 1")
    if arguments.items is not None and arguments.items < 0:
        raise ConfigError(f"--items is {arguments.items}; give 0 or more")
    out = arguments.out
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {str(out)!r} is a file; name a folder")
    if out is not None and not out.parent.is_dir():
        raise ConfigError(f"--out: {str(out.parent)!r} is not a folder; make it first")
    repeated = [name for name in arguments.schemes if arguments.schemes.count(name) > 1]
    if repeated:
        raise ConfigError(f"--scheme {repeated[0]} is given twice; give each once")


def _arithmetics(arguments: Arguments, model: Model) -> Iterator[Arithmetic]:
    from qsim.evaluation import own_format
    from qsim.policy import parse_policy

    policy = parse_policy(arguments.policy or own_format(model))
    yield policy
    for scheme in arguments.schemes:
        yield policy.quantized(scheme)


def _asked(arguments: Arguments, model: Model, reader: LanguageModel) -> _Asked:
    from qsim.evaluation import EvaluationError, last_word_task, next_paragraph_task, read_task

    files = [_task_file(text) for text in arguments.tasks]
    tasks = [read_task(kind, path, limit=arguments.limit_items) for kind, path in files]
    tokens, text, source = _text(arguments, model, reader)
    if tokens is None and not tasks:
        raise EvaluationError(f"{arguments.model} is no run with text of its own; give --text or --task")
    items = arguments.items if arguments.items is not None else 0 if tasks else _ITEMS
    if items and text is None:
        raise EvaluationError("there is no text to make items from; give --text, or --items 0")
    if items and text is not None:
        how = {"number": items, "seed": arguments.seed}
        tasks = [
            last_word_task(text, **how),
            next_paragraph_task(text, reader.tokenizer, reader.length, **how),
            *tasks,
        ]
    cut = None if tokens is None else tokens[: arguments.limit]
    return _Asked(tokens=cut, bytes=_bytes(cut, reader, text), source=source, tasks=tuple(tasks))


def _task_file(text: str) -> tuple[str, Path]:
    kind, found, path = text.partition("=")
    if not found or not path:
        raise ConfigError(f"--task {text!r} is no KIND=FILE; write, for example, --task piqa=FILE.jsonl")
    return kind, Path(path)


def _text(arguments: Arguments, model: Model, reader: LanguageModel) -> tuple[np.ndarray | None, str | None, str]:
    """Tokens, their text where it is known, where they come from."""
    from qsim.data import load_data
    from qsim.evaluation import encoded
    from qsim.text_sources import read_text

    if arguments.text:
        text = read_text(arguments.text)
        return encoded(reader.tokenizer, text, reader.vocabulary), text, ", ".join(p.name for p in arguments.text)
    if model.run is None:
        return None, None, ""
    corpus = load_data(model.run.path)
    known = None if corpus.tokenizer == "none" else reader.tokenizer.decode(corpus.validation)
    return corpus.validation, known, "held out"


def _bytes(tokens: np.ndarray | None, reader: LanguageModel, text: str | None) -> int | None:
    """UTF-8 bytes of the tokens but the first; None where they have no text."""
    if tokens is None or text is None or len(tokens) < 2:
        return None
    if reader.tokenizer.name == "bytes":
        return len(tokens) - 1
    return len(reader.tokenizer.decode(tokens[1:]).encode())


def _scored(arguments: Arguments, name: str, model: LanguageModel, asked: _Asked) -> Evaluation:
    import dataclasses
    import sys

    from qsim.evaluation import Evaluation, evaluate_tasks, perplexity
    from qsim.progress import shown, silent

    bar = shown if sys.stderr.isatty() else silent

    def begin(what: str, begun: int, steps: int) -> Any:
        return bar(f"{name}: {what}", begun, steps)

    text = None
    if asked.tokens is not None:
        text = perplexity(model, asked.tokens, length=arguments.length, stride=arguments.stride, begin=begin)
        text = dataclasses.replace(text, bytes=asked.bytes)
    return Evaluation(name=name, text=text, tasks=evaluate_tasks(model, asked.tasks, begin=begin))


def _head(arguments: Arguments, model: Model, policy: Arithmetic, asked: _Asked) -> dict[str, Any]:
    return {
        "model": str(model.source),
        "architecture": model.architecture,
        "policy": policy.name,
        "accumulator": policy.site("qkv", "fprop").accumulator,
        "executor": arguments.executor,
        "text": asked.source,
        "seed": arguments.seed,
    }


# As tables


def _print(
    arguments: Arguments,
    model: Model,
    policy: Arithmetic,
    asked: _Asked,
    found: Sequence[Evaluation],
    compared: Sequence[Comparison],
) -> None:
    row = policy.site("qkv", "fprop")
    print(
        f"{model.source} ({model.architecture}); pre is {policy.name}, sums {row.accumulator}, {arguments.executor}"
    )
    if found[0].text is not None:
        text = found[0].text
        print(f"text: {asked.source}, {len(text.losses)} tokens in windows of {text.length}, stride {text.stride}\n")
    print_columns([_summary(one, c) for one, c in zip(found, [None, *compared], strict=True)])
    if asked.tasks:
        print_columns(list(_task_rows(found, compared)), by="task")
    unscored = sum(s.not_finite for e in found for s in e.tasks) + sum(e.text.not_finite for e in found if e.text)
    if unscored:
        print(f"\n{unscored} losses are not finite: logits overflowed or are NaN; such items count as wrong")


def _summary(one: Evaluation, compared: Comparison | None) -> dict[str, Any]:
    text = one.text
    bits = None if text is None else text.bits_per_byte
    return {
        "arithmetic": one.name,
        "loss": None if text is None else f"{text.loss:.5f}",
        "perplexity": None if text is None else f"{text.perplexity:.5g}",
        "bits/byte": None if bits is None else f"{bits:.5f}",
        "loss - pre (95 %)": None if compared is None else _span(compared.delta_loss),
        "degradation (95 %)": None if compared is None else _span(compared.degradation, percent=True),
    }


def _task_rows(found: Sequence[Evaluation], compared: Sequence[Comparison]) -> Iterator[dict[str, Any]]:
    from qsim.evaluation.items import METRICS

    tasks = found[0].tasks
    metrics = [name for name in METRICS if any(name in score.task.metrics for score in tasks)]
    for i, task in enumerate(tasks):
        for one, other in zip(found, [None, *compared], strict=True):
            score, change = one.tasks[i], None if other is None else other.tasks[i]
            own = {name: _accuracy(score, name) for name in metrics}
            yield {
                "task": f"{task.task.name}, {len(score.answers)} items",
                "arithmetic": one.name,
                **own,
                "loss": f"{score.losses.mean():.4f}",
                **_change(change),
            }


def _change(change: TaskComparison | None) -> dict[str, Any]:
    if change is None:
        return dict.fromkeys(("(post - pre)/pre", "lost, gained", "McNemar p", "loss - pre (95 %)"))
    return {
        "(post - pre)/pre": None if change.change is None else f"{100 * change.change:+.2f} %",
        "lost, gained": f"{change.lost}, {change.gained}",
        "McNemar p": f"{change.p_value:.3g}",
        "loss - pre (95 %)": _span(change.delta_loss),
    }


def _accuracy(score: TaskScore, metric: str) -> str | None:
    if metric not in score.task.metrics:
        return None
    value, error = score.accuracy(metric)
    return f"{value:.4f}" if error is None else f"{value:.4f} +- {error:.4f}"


def _span(interval: Interval | None, *, percent: bool = False) -> str | None:
    if interval is None:
        return None
    scale, digits, unit = (100, 2, " %") if percent else (1, 5, "")
    value = f"{scale * interval.value:+.{digits}f}{unit}"
    if interval.low is None or interval.high is None:
        return value
    return f"{value} [{scale * interval.low:+.{digits}f}, {scale * interval.high:+.{digits}f}]"
