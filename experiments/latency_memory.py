"""Latency and memory (Table 6): what INT8 saves, by batch size, beside LLM.int8() and weights alone.

Claim: INT8 weights and activations make inference 1.4 to 1.5 times as fast as half precision and take about 40 % less
memory; LLM.int8()'s decomposition has "significant latency overhead"; weights alone stop paying as models become
compute-bound.

Rule, written before it was run: of memory, by a formula from shapes that the bytes held are counted against:
*not reproduced* where the paper's 6B, 13B and 52B do not all save 35 to 50 % by vector-wise INT8 of linear layers.
Of latency, on JAX, whose products are the machine's own: *reproduced* where at the largest batch vector-wise INT8 is
at least 1.2 times as fast as fp16, ``llm_int8`` slower than it, and weights alone gain less on fp16 there than with one
sequence; *not reproduced* otherwise.  On NumPy and Numba it cannot be told: INT8 products are emulated there.

Forward passes over whole sequences, with weights drawn at random, sums of 16-bit formats native; methods in turns,
medians of five.  Times are those of the machine at hand and are no hash.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.drawing import COLOURS, figure
from experiments.judging import NOT_REPRODUCED, REPRODUCED, UNTOLD, Verdict
from experiments.published import LATENCY, MEMORY
from experiments.quantizing import INT4, INT8, INT8_WEIGHTS, LLM_INT8, SCHEMES, Evaluation
from experiments.scales import Scale, scale_named
from experiments.standalone import Part, Row, Standalone, Tables
from qsim.config import ModelConfig
from qsim.decoder import ResidentWeights
from qsim.decoder_config import of_model
from qsim.importing import Model
from qsim.policy import parse_policy
from qsim.position import start
from qsim.post_training import PostTraining, memory_by_formula, memory_held, quantize_model
from qsim.tokenizers import ByteTokenizer

HALVES, QUANTIZED = ("fp16", "bf16"), (INT8, LLM_INT8, INT8_WEIGHTS, INT4)
BATCHES, REPEATS = (1, 4, 16), 5
TIMES, BYTES = "latency", "memory"
PAPER = {  # layers, width, heads: derived from the sizes that the paper names
    "6B": (28, 4096, 32),
    "13B": (40, 5120, 40),
    "52B": (64, 8192, 64),
}
FAST, SAVED = 1.2, (0.35, 0.50)


def parts(scale: Scale) -> list[Part]:
    """At ``smoke`` one sequence alone."""
    batches = BATCHES[:1] if scale.name == "smoke" else BATCHES
    shared = {"seed": 0, "steps": 0, "scale": scale.name, "executor": scale.executor}
    return [shared | {"batch": batch} for batch in batches]


def make(part: Part) -> Tables:
    config = scale_named(part["scale"]).config
    parameters = {k: np.asarray(v) for k, v in start(config, parse_policy("bf16")).state["parameters"].items()}
    source = Model(
        architecture="qsim",
        config=of_model(config.model),
        weights=ResidentWeights(parameters=parameters),
        source=Path("drawn at random"),
        read_tokenizer=ByteTokenizer,
    )
    used, memory = {}, []
    for name in HALVES:
        policy = parse_policy(name).with_(accumulator="native")
        used[name] = Evaluation(model=source, policy=policy, executor=part["executor"])
    for name in QUANTIZED:
        how = PostTraining(working="fp16", **SCHEMES[name])
        model = quantize_model(source, how)
        used[name] = Evaluation(model=model, policy=used["fp16"].policy, executor=part["executor"])
        held = memory_held(model.weights.parts(), model.config, how)  # type: ignore[attr-defined]
        memory.append(_bytes("this scale", name, how, model.config, held.whole.quantized))
    return {TIMES: _timed(used, part, config.model), BYTES: memory if part["batch"] == 1 else []}


def _bytes(size: str, name: str, how: PostTraining, config: Any, held: int | None) -> Row:
    found = memory_by_formula(config, how)
    row: Row = {"size": size, "method": name, "bytes in 16 bits": found.whole.half}
    row |= {"bytes": found.whole.quantized, "saved": round(found.whole.saved, 4)}
    return row | {"saved of linear layers": round(found.linear.saved, 4), "held": held}


def _timed(used: dict[str, Evaluation], part: Part, model: ModelConfig) -> list[Row]:
    """Each once before, so that nothing is compiled while it is timed."""
    tokens = np.random.default_rng(0).integers(0, model.vocabulary, (part["batch"], model.length), np.int32)
    seconds: dict[str, list[float]] = {name: [] for name in used}
    for turn in range(REPEATS + 1):
        for name, one in used.items():
            began = time.perf_counter()
            one.forward(tokens)
            if turn:
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    facts = {"batch": part["batch"], "executor": part["executor"]}
    return [
        facts
        | {"method": n, "milliseconds": round(1000 * s, 3), "times as fast as fp16": round(medians["fp16"] / s, 3)}
        for n, s in medians.items()
    ]


def of_paper() -> list[Row]:
    """Of the paper's sizes: 51,200 tokens, 2,048 positions, by formula."""
    found = []
    for name, (layers, hidden, heads) in PAPER.items():
        model = ModelConfig(layers=layers, hidden=hidden, heads=heads, length=2048, vocabulary=51200)
        for method in QUANTIZED:
            how = PostTraining(working="fp16", **SCHEMES[method])
            found.append(_bytes(name, method, how, of_model(model), None))
    return found


def speed(tables: Tables, method: str, batch: int) -> float:
    row = next(row for row in tables[TIMES] if (row["method"], row["batch"]) == (method, batch))
    return float(row["times as fast as fp16"])


def judge(tables: Tables) -> Verdict:
    saved = [row["saved"] for row in of_paper() if row["method"] == INT8]
    memory = f"INT8 saves {min(saved):.0%} to {max(saved):.0%} of the bytes of the paper's sizes"
    if not all(SAVED[0] <= one <= SAVED[1] for one in saved):
        return Verdict(outcome=NOT_REPRODUCED, reason=memory)
    batches = sorted({row["batch"] for row in tables[TIMES]})
    first, last = batches[0], batches[-1]
    fast = speed(tables, INT8, last)
    reason = f"{memory}; at batch {last} it is {fast:.2f} times as fast as fp16"
    if tables[TIMES][0]["executor"] != "jax":
        return Verdict(outcome=UNTOLD, reason=f"{reason}, by emulated products, which say nothing of a machine's own")
    alone = speed(tables, INT8_WEIGHTS, last) < speed(tables, INT8_WEIGHTS, first)
    told = fast >= FAST and speed(tables, LLM_INT8, last) < fast and alone
    return Verdict(outcome=REPRODUCED if told else NOT_REPRODUCED, reason=reason)


def draw(tables: Tables) -> Figure:
    drawn, axes = figure(2, width=4.6, height=3.2)
    batches = sorted({row["batch"] for row in tables[TIMES]})
    for number, name in enumerate((*HALVES, *QUANTIZED)):
        found = [speed(tables, name, batch) for batch in batches]
        axes[0, 0].plot(batches, found, marker="o", color=COLOURS[number], label=name)
    axes[0, 0].axhspan(*(one.value for one in LATENCY), facecolor="none", edgecolor="black", linestyle=":")
    axes[0, 0].set(title="speed (dotted: the paper's)", xlabel="batch", ylabel="times as fast as fp16", xscale="log")
    axes[0, 0].set_xticks(batches, map(str, batches))
    axes[0, 0].legend(frameon=False, fontsize=6)
    rows = [*(row for row in tables[BYTES] if row["size"] == "this scale"), *of_paper()]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    for number, name in enumerate(QUANTIZED):
        saved = [100 * next(r["saved"] for r in rows if (r["size"], r["method"]) == (size, name)) for size in sizes]
        places = np.arange(len(sizes)) + 0.2 * (number - 1.5)
        axes[0, 1].bar(places, saved, width=0.18, color=COLOURS[number + len(HALVES)], label=name)
    axes[0, 1].axhline(MEMORY.value, color="black", linestyle=":", linewidth=0.8)
    axes[0, 1].set_xticks(range(len(sizes)), sizes)
    axes[0, 1].set(title="bytes below 16 bits (dotted: the paper's)", ylabel="%")
    return drawn


def seconds(part: Part) -> float:
    """On two cores: a pass of each method is some 0.1 microseconds a token and parameter of a layer."""
    model = scale_named(part["scale"]).config.model
    return 20 + (REPEATS + 1) * part["batch"] * model.length * model.parameters * 6e-9


def shown(tables: Tables) -> list[Row]:
    """A line a method and batch; the bytes are in memory.csv."""
    saved = {row["method"]: f"{row['saved']:.1%}" for row in tables[BYTES]}
    return [row | {"bytes below 16 bits": saved.get(row["method"])} for row in tables[TIMES]]


EXPERIMENT = Standalone(
    name="latency_memory",
    claim="INT8 of weights and activations is 1.4 to 1.5 times as fast as half precision in 40 % less memory",
    paper="Table 6",
    parts=parts,
    make=make,
    judge=judge,
    draw=draw,
    seconds=seconds,
    shown=shown,
)
