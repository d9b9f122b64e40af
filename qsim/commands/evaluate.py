"""``qsim evaluate``: perplexity and items of a model, before and after quantization."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precision.backends import BACKENDS
from qsim import strict_json
from qsim.commands.command import AddCommand, Arguments
from qsim.commands.evaluation_table import print_evaluations
from qsim.commands.quantization_options import add_quantization_options, quantized_ways
from qsim.config import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from qsim.evaluation import Evaluation, LanguageModel, Questions, Way
    from qsim.importing import Model

_ITEMS = 50


def add(command: AddCommand) -> None:
    parser = command("evaluate", _evaluate, "perplexity and items of a model, before and after quantization")
    parser.add_argument("model", metavar="MODEL", help="a run, a checkpoint, a Hugging Face folder or a GGUF file")
    parser.add_argument("--policy", help="the arithmetic called pre; the model's own 16-bit format by default")
    parser.add_argument("--against", metavar="MODEL", help="pre is this model instead, and MODEL compared with it")
    parser.add_argument(
        "--also", dest="policies", action="append", default=[], metavar="POLICY",
        help="the same model under another policy, compared with pre; several times for several",
    )  # fmt: skip
    parser.add_argument(
        "--scheme", dest="schemes", action="append", default=[], metavar="NAME",
        help="quantize linear layers so, and compare; several times for several, see qsim quantizers; kv: keys and "
        "values alone, NAME+kv: both",
    )  # fmt: skip
    add_quantization_options(parser)
    parser.add_argument("--executor", choices=BACKENDS, default="numba", help="default numba")
    parser.add_argument(
        "--by-layer", action="store_true", help="read weights on every pass, a layer at a time, instead of once"
    )
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


def _evaluate(arguments: Arguments) -> int:
    from qsim.evaluation import compare
    from qsim.evaluation.results import as_json, write_results
    from qsim.importing import open_model

    _check(arguments)
    model = open_model(arguments.model)
    ways, calibrated = _ways(arguments, model)
    asked, source = _asked(arguments, model, ways)
    found = [_evaluated(arguments, way, asked) for way in ways]
    compared = [compare(found[0], one) for one in found[1:]]
    head = _head(arguments, model, ways, source) | {"calibration": calibrated}
    values = as_json(found, compared)
    if arguments.out is not None:
        write_results(arguments.out, head, found, values)
    if arguments.json:
        print(strict_json.dumps(head | values, indent=1))
    else:
        print_evaluations(head, found, compared)
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
    both = [
        path for path in arguments.calibration or () if path.resolve() in {p.resolve() for p in arguments.text or ()}
    ]
    if both:
        raise ConfigError(f"--calibration {both[0]} is evaluated, too; calibrate on other text")


def _ways(arguments: Arguments, model: Model) -> tuple[list[Way], str | None]:
    """The first is what the others are compared with; and what those that calibrate do so on."""
    from qsim.evaluation import Way
    from qsim.importing import open_model, own_format
    from qsim.policy import parse_policy

    policy = parse_policy(arguments.policy or own_format(model))
    own = Way(name="post" if arguments.against else "quantized" if model.quantization else "pre", model=model,
              policy=policy)  # fmt: skip
    ways = [own]
    if arguments.against is not None:
        other = open_model(arguments.against)
        ways = [Way(name="pre", model=other, policy=parse_policy(arguments.policy or own_format(other))), own]
    ways += [Way(name=name, model=model, policy=parse_policy(name)) for name in arguments.policies]
    quantized, calibrated = quantized_ways(arguments, own, arguments.schemes)
    ways += quantized
    names = [way.name for way in ways]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ConfigError(f"{repeated[0]} is given twice; give each once")
    return ways, calibrated


def _asked(arguments: Arguments, model: Model, ways: Sequence[Way]) -> tuple[Questions, str]:
    """And where the text comes from."""
    from qsim.evaluation import (
        DecoderLanguageModel,
        EvaluationError,
        Questions,
        check_same_tokens,
        last_word_task,
        next_paragraph_task,
        read_task,
    )

    readers = [
        DecoderLanguageModel(way.model, way.policy, arguments.executor) for way in ways[: 1 + bool(arguments.against)]
    ]
    reader, length = readers[-1], min(one.length for one in readers)
    tasks = [read_task(kind, path, limit=arguments.limit_items) for kind, path in map(_task_file, arguments.tasks)]
    tokens, text, source = _text(arguments, model, reader)
    if tokens is None and not tasks:
        raise EvaluationError(f"{arguments.model} is no run with text of its own; give --text or --task")
    if tokens is not None and text is not None and len(readers) > 1:
        check_same_tokens(readers[0], text, tokens)
    items = arguments.items if arguments.items is not None else 0 if tasks else _ITEMS
    if items and text is None:
        raise EvaluationError("there is no text to make items from; give --text, or --items 0")
    if items and text is not None:
        how = {"number": items, "seed": arguments.seed}
        tasks = [last_word_task(text, **how), next_paragraph_task(text, reader.tokenizer, length, **how), *tasks]
    cut = None if tokens is None else tokens[: arguments.limit]
    window = arguments.length or length
    asked = Questions(
        tokens=cut, tasks=tuple(tasks), bytes=_bytes(cut, reader, text), length=window, stride=arguments.stride
    )
    return asked, source


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


def _evaluated(arguments: Arguments, way: Way, asked: Questions) -> Evaluation:
    import sys

    from qsim.evaluation import evaluate
    from qsim.progress import shown, silent

    bar = shown if sys.stderr.isatty() else silent

    def begin(what: str, begun: int, steps: int) -> Any:
        return bar(f"{way.name}: {what}", begun, steps)

    return evaluate(way.language_model(arguments.executor, held=not arguments.by_layer), way.name, asked, begin=begin)


def _head(arguments: Arguments, model: Model, ways: Sequence[Way], source: str) -> dict[str, Any]:
    policy = ways[0].policy
    return {
        "model": str(model.source),
        "architecture": model.architecture,
        "policy": policy.name,
        "accumulator": policy.site("qkv", "fprop").accumulator,
        "executor": arguments.executor,
        "text": source,
        "seed": arguments.seed,
        "ways": [way.as_json() for way in ways],
    }
