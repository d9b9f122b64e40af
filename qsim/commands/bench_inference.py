"""``qsim bench inference``: its options, and what it measures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from precision.backends import BACKENDS
from qsim.commands.command import Arguments

TOKENS, NEW, REPEATS = 512, 16, 5


def add_options(parser: argparse.ArgumentParser, count: Callable[[str], int]) -> None:
    """count: the type of an option that is a number from 1 on."""
    parser.add_argument("model", type=Path, nargs="?", metavar="MODEL", help="by default a random one")
    text = f"of the prompt, which is read at once (default {TOKENS})"
    parser.add_argument("--tokens", type=count, metavar="N", default=TOKENS, help=text)
    text = f"tokens read one by one behind it (default {NEW})"
    parser.add_argument("--new", type=count, metavar="N", default=NEW, help=text)
    names = "see qsim policy; or a scheme of qsim quantizers, on bf16"
    parser.add_argument("--policy", nargs="+", metavar="NAME", default=[], help=names)
    parser.add_argument("--executor", nargs="+", choices=BACKENDS, default=[], help="on which (default numba)")
    parser.add_argument("--threads", type=count, metavar="N", help="of the kernels and of torch; all by default")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory, a process a policy")
    text = f"rounds in which each contender has its turn (default {REPEATS})"
    parser.add_argument("--repeats", type=count, metavar="N", default=REPEATS, help=text)


def measured(arguments: Arguments, threads: int) -> dict[str, Any]:
    """What ``--json`` prints."""
    from qsim.bench import decoder_readers, inference, inference_memory, torch_decoder
    from qsim.runs import environment

    chosen = inference.entries(arguments.policy, arguments.executor)
    model = decoder_readers.opened(arguments.model)
    print(f"{len(chosen)} policies, at most {arguments.repeats} rounds", file=sys.stderr, flush=True)
    rows = inference.rows(
        model,
        chosen,
        tokens=arguments.tokens,
        new=arguments.new,
        repeats=arguments.repeats,
        threads=threads,
    )
    memory = [] if arguments.no_memory else inference_memory.peaks(arguments.model, chosen, arguments.tokens)
    return {
        "benchmark": "inference",
        "environment": environment(),
        "threads": threads,
        "repeats": arguments.repeats,
        "source": "random" if arguments.model is None else str(arguments.model),
        "model": asdict(model.config),
        "parameters": decoder_readers.count(model.config),
        "torch": torch_decoder.versions(),
        "data": inference.DATA,
        "rows": rows,
        "memory": memory,
    }
