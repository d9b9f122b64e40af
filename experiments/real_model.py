"""What quantization takes from a real pretrained model, and what it meets in it.

    python -m experiments.real_model MODEL experiments/results --text HELD_OUT.txt --calibration OTHER.txt

Predictions, written before it was run, for SmolLM2-135M out of a Q4_1 file; losses are those of bf16 subtracted,
nats a token:

- fp32 and fp16 lie within 0.01, and their intervals hold 0: 8 bits of significand are enough for a forward pass.
- ``int8_vectorwise`` costs less than 0.05; ``int8_tensorwise``, one scale for all tokens, at least three times that;
  ``llm_int8`` and ``smoothquant`` cost less than vector-wise.
- INT8 keys and values, and INT8 weights alone, cost less than 0.01: no interval needs to exclude 0.
- INT4 weights: one scale a column costs most of all, above 0.3; in groups of 32 less than half of that, and groups of
  64 lie between.
- A few dimensions of the residual stream hold massive activations, above 1,000 times the median, at the first token.

A model out of a 4-bit file was on that file's grid before: its INT4 figures are no degradation of the original
model's, and all figures are those of the file.  The table says so where MODEL is a GGUF file.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qsim.analysis import Analysis, analyze
from qsim.analysis.summaries import outlier_table
from qsim.atomic import write_atomically
from qsim.commands.columns import print_columns
from qsim.evaluation import (
    Comparison,
    DecoderLanguageModel,
    Evaluation,
    Questions,
    Task,
    Way,
    compare,
    encoded,
    evaluate,
    last_word_task,
    next_paragraph_task,
    parsed_way,
)
from qsim.evaluation.comparison import Interval
from qsim.importing import Model, open_model, own_format
from qsim.policy import parse_policy
from qsim.post_training import PostTraining
from qsim.runs import environment
from qsim.text_sources import read_text

Row = dict[str, Any]
MASSIVE = 40  # rows
POLICIES = ("fp32", "bf16", "fp16")
SCHEMES = (
    "int8_vectorwise", "int8_tensorwise", "llm_int8", "smoothquant", "kv", "int8_weight_only",
    "int4_columnwise_weight_only", "int4_group32", "int4_group64",
)  # fmt: skip
CAVEAT = (
    "the weights come out of a file of 4 bits a weight: they were on its grid before, so that what is lost here is "
    "lost beside that loss, and INT4 figures say little of the original model"
)


def ways_of(model: Model, calibration: np.ndarray) -> list[Way]:
    """The model's own format first, which the others are compared with, then other policies, then schemes."""
    own = own_format(model)
    policy = parse_policy(own)
    ways = [Way(name=own, model=model, policy=policy)]
    ways += [Way(name=name, model=model, policy=parse_policy(name)) for name in POLICIES if name != own]
    for name in SCHEMES:
        scheme, kv = parsed_way(name)
        how = PostTraining(scheme=scheme, kv="int8" if kv else None, working=own)
        ways.append(Way(name=name, model=model, policy=policy, how=how, calibration=calibration))
    return ways


def evaluated(ways: Sequence[Way], asked: Questions, executor: str) -> Iterator[tuple[Row, Evaluation]]:
    """Each way by itself, its weights let go before the next; and how it was computed."""
    for way in ways:
        began = time.perf_counter()
        model = way.language_model(executor)
        found = evaluate(model, way.name, asked)
        how = way.how
        row: Row = {"way": way.name, "policy": model.calculator.policy.name}
        row |= {"policy_sha256": model.calculator.policy.sha256[:16]}
        row |= {"quantization": "" if how is None else str(how)}
        print(f"{way.name}: {time.perf_counter() - began:.0f} s", flush=True)
        yield row, found


def text_row(head: Row, one: Evaluation, compared: Comparison | None) -> Row:
    text, delta = one.text, None if compared is None else compared.delta_loss
    if text is None:
        raise ValueError("there is no text; give --text")
    row = head | {"tokens": len(text.losses), "loss": f"{text.loss:.6f}", "perplexity": f"{text.perplexity:.4f}"}
    return row | _interval("delta_loss", delta)


def item_rows(head: Row, one: Evaluation, compared: Comparison | None) -> Iterator[Row]:
    for i, score in enumerate(one.tasks):
        other, metric = None if compared is None else compared.tasks[i], score.task.metrics[0]
        row = {"way": head["way"], "task": score.task.name, "items": len(score.answers), "metric": metric}
        row |= {"right": int(score.right(metric).sum()), "loss": f"{score.losses.mean():.6f}"}
        row |= {"lost": "" if other is None else other.lost, "gained": "" if other is None else other.gained}
        row |= {"mcnemar_p": "" if other is None else f"{other.p_value:.4g}"}
        yield row | _interval("delta_loss", None if other is None else other.delta_loss)


def _interval(name: str, found: Interval | None) -> Row:
    values = (None,) * 3 if found is None else (found.value, found.low, found.high)
    texts = ("" if value is None else f"{value:+.6f}" for value in values)
    return dict(zip((name, f"{name}_low", f"{name}_high"), texts, strict=True))


def tasks_of(text: str, reader: DecoderLanguageModel, length: int, number: int) -> tuple[Task, ...]:
    if not number:
        return ()
    paragraphs = next_paragraph_task(text, reader.tokenizer, length, number=number)
    return last_word_task(text, number=number), paragraphs


def massive_rows(found: Analysis) -> list[Row]:
    """The largest, in order of their magnitude."""
    largest = sorted(found.massive, key=lambda row: -abs(row.value))[:MASSIVE]
    return [{k: f"{v:.6g}" if isinstance(v, float) else v for k, v in vars(row).items()} for row in largest]


def write_table(path: Path, head: Sequence[str], rows: Sequence[Row]) -> None:
    """CSV behind lines of what it is of, each after a #."""
    file = io.StringIO()
    file.writelines(f"# {line}\n" for line in head)
    writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, file.getvalue().encode())


def provenance(model: Path, arguments: argparse.Namespace) -> list[str]:
    """What the tables are of: files by their hashes, versions, the caveat."""
    made = environment()
    versions = " ".join(f"{name} {version}" for name, version in made["versions"].items())
    lines = [f"caveat: {CAVEAT}"] if model.suffix == ".gguf" else []
    files = [("model", [model] if model.is_file() else sorted(model.glob("*.safetensors")))]
    files += [("text", arguments.text), ("calibration", arguments.calibration)]
    lines += [f"{what}: {path.name}, SHA-256 {sha256(path)}" for what, paths in files for path in paths]
    lines += [f"first {arguments.tokens} tokens behind {arguments.skip} characters, windows of {arguments.length}"]
    lines += ["products of quantized layers are dequantized to fp16"]
    return [*lines, f"{arguments.executor}; Python {made['python']} {versions}; {made['cpu']}"]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path, help="folder of the tables")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="that the model is evaluated on")
    parser.add_argument("--calibration", type=Path, nargs="+", required=True, help="other text, for smoothquant")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--skip", type=int, default=2000, help="characters: title pages")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--items", type=int, default=16, help="of either kind, made from the text; 0 for none")
    parser.add_argument("--executor", choices=("numba", "numpy"), default="numba")
    return parser


def main(told: Sequence[str] | None = None) -> None:
    arguments = _parser().parse_args(told)
    arguments.out.mkdir(parents=True, exist_ok=True)
    model, head, size = open_model(arguments.model), provenance(arguments.model, arguments), arguments.length
    text = read_text(arguments.text)[arguments.skip :]
    other = read_text(arguments.calibration)[arguments.skip : arguments.skip + 64 * arguments.tokens]
    vocabulary = model.config.vocabulary
    tokens = encoded(model.tokenizer, text, vocabulary)[: arguments.tokens]
    calibration = encoded(model.tokenizer, other, vocabulary)[: arguments.tokens // size * size].reshape(-1, size)

    whole = tokens[: len(tokens) // size * size].reshape(-1, size)
    found = analyze(model, whole, text=arguments.text[0].name, executor=arguments.executor)
    write_table(arguments.out / "real_model_outliers.csv", head, list(outlier_table([found])))
    write_table(arguments.out / "real_model_massive.csv", head, massive_rows(found) or [{"massive": "none"}])

    ways = ways_of(model, calibration)
    reader = DecoderLanguageModel(model, ways[0].policy, arguments.executor)
    asked = Questions(tokens=tokens, tasks=tasks_of(text, reader, size, arguments.items), length=size)
    made = list(evaluated(ways, asked, arguments.executor))
    first = made[0][1]
    pairs = [(row, one, None if one is first else compare(first, one)) for row, one in made]
    rows = [text_row(*pair) for pair in pairs]
    write_table(arguments.out / "real_model_text.csv", head, rows)
    print_columns([{k: row[k] for k in row if k not in ("policy_sha256", "quantization")} for row in rows])
    if asked.tasks:
        rows = [row for pair in pairs for row in item_rows(*pair)]
        write_table(arguments.out / "real_model_items.csv", head, rows)
        print_columns(rows)


if __name__ == "__main__":
    main()
