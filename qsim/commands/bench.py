"""``qsim bench``: the benchmarks; alone it lists them."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsim.commands import bench_compile, bench_inference, bench_train
from qsim.commands.bench_train import up_to
from qsim.commands.columns import print_columns
from qsim.commands.command import AddCommand, Arguments, Run
from qsim.commands.options import check_out

LARGEST_SIZE = 1 << 28
SIZES = (1 << 26, 1 << 18)
REPEATS = 9
ARRAY = (4096, 1024)
LARGEST_ORDER = 8192
ORDERS = (512, 1024, 2048)
GEMM_REPEATS = 15

Result = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark as the command line sees it."""

    text: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Run


def add(command: AddCommand) -> None:
    bench = command("bench", _list, "measure speeds as ratios; alone: list the benchmarks")
    chosen = bench.add_subparsers(metavar="BENCHMARK", parser_class=type(bench))
    for name, benchmark in BENCHMARKS.items():
        parser = chosen.add_parser(name, help=benchmark.text, description=benchmark.text)
        for option in ("--json", "--traceback"):  # no defaults: those of `qsim bench` stand
            parser.add_argument(option, action="store_true", default=argparse.SUPPRESS)
        benchmark.add_options(parser)
        parser.set_defaults(run=benchmark.run)


def _list(arguments: Arguments) -> int:
    rows = [{"benchmark": name, "measures": benchmark.text} for name, benchmark in BENCHMARKS.items()]
    print(json.dumps(rows, indent=1)) if arguments.json else print_columns(rows)
    return 0


def _size(text: str) -> int:
    """``262144`` or ``2^18``."""
    words = re.fullmatch(r"2\^([0-9]{1,2})|([0-9]{1,9})", text)
    size = 0 if words is None else 1 << int(words[1]) if words[1] else int(words[2])
    if not 1 <= size <= LARGEST_SIZE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of values; give 1 to 2^28, such as 4096 or 2^18")
    return size


_count = up_to(10_000, "count", REPEATS)
_order = up_to(LARGEST_ORDER, "size", 1024)  # of square matrices


def _add_rounding_options(parser: argparse.ArgumentParser) -> None:
    sizes = "values in the array, 2^26 and 2^18 by default; those have bars"
    parser.add_argument("--size", type=_size, nargs="+", metavar="N", default=list(SIZES), help=sizes)
    parser.add_argument("--threads", type=_count, metavar="N", help="of the Numba kernels; all by default")
    parser.add_argument("--peers", action="store_true", help="other libraries too, those that are installed")
    _add_common_options(parser, REPEATS)


def _add_gemm_options(parser: argparse.ArgumentParser) -> None:
    sizes = "rows and columns of both matrices, 512, 1024 and 2048 by default; those have bars"
    parser.add_argument("--size", type=_order, nargs="+", metavar="N", default=list(ORDERS), help=sizes)
    parser.add_argument("--threads", type=_count, metavar="N", help="of the kernels and of BLAS; all by default")
    names = "what to measure beside sgemm; see qsim accumulators"
    parser.add_argument("--accumulator", nargs="+", metavar="NAME", default=[], help=names)
    _add_common_options(parser, GEMM_REPEATS)


def _add_quantizers_options(parser: argparse.ArgumentParser) -> None:
    shape = f"rows and columns of the array, {ARRAY[0]} and {ARRAY[1]} by default; that has a bar"
    parser.add_argument("--shape", type=_order, nargs=2, metavar="N", default=list(ARRAY), help=shape)
    sizes = "rows and columns of both matrices, 512, 1024 and 2048 by default; the last has a bar"
    parser.add_argument("--size", type=_order, nargs="+", metavar="N", default=list(ORDERS), help=sizes)
    parser.add_argument("--threads", type=_count, metavar="N", help="of the kernels and of BLAS; all by default")
    _add_common_options(parser, REPEATS)


def _add_common_options(parser: argparse.ArgumentParser, repeats: int) -> None:
    text = f"rounds in which each contender has its turn (default {repeats})"
    parser.add_argument("--repeats", type=_count, metavar="N", default=repeats, help=text)
    _add_output_options(parser)


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--markdown", action="store_true", help="print the ratios alone, as a Markdown table")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there as well")


def _rounding(arguments: Arguments) -> int:
    from qsim.bench.markdown import markdown
    from qsim.bench.table import print_comparison

    return _report(arguments, _measured_rounding, markdown, print_comparison)


def _gemm(arguments: Arguments) -> int:
    from qsim.bench.gemm_table import gemm_markdown, print_products

    return _report(arguments, _measured_gemm, gemm_markdown, print_products)


def _quantizers(arguments: Arguments) -> int:
    from qsim.bench.quantizers_table import print_quantizers, quantizers_markdown

    return _report(arguments, _measured_quantizers, quantizers_markdown, print_quantizers)


def _train(arguments: Arguments) -> int:
    from precision.backends import get_backend
    from qsim.bench.absent import absent_markdown, print_absent
    from qsim.bench.full_speed import full_speed_markdown, print_full_speed
    from qsim.bench.train_table import print_training, training_markdown

    if arguments.machine is not None:
        if not arguments.full_speed:
            raise ValueError(f"--machine {arguments.machine} is of native policies; add --full-speed")
        return _report(arguments, bench_train.counted_full_speed, absent_markdown, print_absent)
    if arguments.full_speed or get_backend("jax").devices.platform() != "cpu":
        return _report(arguments, bench_train.measured_full_speed, full_speed_markdown, print_full_speed)
    return _report(arguments, bench_train.measured, training_markdown, print_training)


def _report(
    arguments: Arguments,
    measured: Callable[[Arguments], Result],
    markdown: Callable[[Result], str],
    print_result: Callable[[Result], None],
) -> int:
    from qsim.atomic import write_atomically

    check_out(arguments.out)
    result = measured(arguments)
    text = json.dumps(result, indent=1)
    if arguments.out is not None:
        write_atomically(arguments.out, text.encode())
    if arguments.json or arguments.markdown:
        print(text if arguments.json else markdown(result))
    else:
        print_result(result)
    return 0


def _measured_rounding(arguments: Arguments) -> Result:
    """What ``--json`` prints."""
    from qsim.bench import rounding
    from qsim.bench.threads import bandwidth
    from qsim.runs import environment

    threads = _threads(arguments.threads, bandwidth().most_threads())
    rows = []
    for size in dict.fromkeys(arguments.size):
        print(f"{size:,} values, {arguments.repeats} rounds", file=sys.stderr, flush=True)
        rows += rounding.rows(size, repeats=arguments.repeats, threads=threads, with_peers=arguments.peers)
    return {
        "benchmark": "rounding",
        "environment": environment(),
        "threads": threads,
        "repeats": arguments.repeats,
        "data": rounding.DATA,
        "peers": {peer.package: peer.version() for peer in rounding.PEERS} if arguments.peers else None,
        "rows": rows,
    }


def _measured_gemm(arguments: Arguments) -> Result:
    """What ``--json`` prints."""
    from qsim.bench import gemm
    from qsim.bench.threads import bandwidth, blas
    from qsim.runs import environment

    chosen, library = gemm.entries(arguments.accumulator), blas()
    threads = _threads_of_both(arguments.threads, library, bandwidth().most_threads())
    rows = []
    for size in dict.fromkeys(arguments.size):
        print(f"{size} x {size} x {size}, at most {arguments.repeats} rounds", file=sys.stderr, flush=True)
        rows += gemm.rows(size, chosen=chosen, repeats=arguments.repeats, threads=threads)
    return {
        "benchmark": "gemm",
        "environment": environment(),
        "blas": library,
        "threads": threads,
        "repeats": arguments.repeats,
        "data": gemm.DATA,
        "rows": rows,
    }


def _measured_quantizers(arguments: Arguments) -> Result:
    """What ``--json`` prints."""
    from qsim.bench import quantizers
    from qsim.bench.threads import bandwidth, blas
    from qsim.runs import environment

    library, repeats = blas(), arguments.repeats
    threads = _threads_of_both(arguments.threads, library, bandwidth().most_threads())
    rows, columns = arguments.shape
    print(f"{rows} x {columns}, {repeats} rounds", file=sys.stderr, flush=True)
    arrays = quantizers.array_rows((rows, columns), repeats=repeats, threads=threads)
    products = []
    for size in dict.fromkeys(arguments.size):
        print(f"{size} x {size} x {size}, at most {repeats} rounds", file=sys.stderr, flush=True)
        products += quantizers.product_rows(size, repeats=repeats, threads=threads)
    return {
        "benchmark": "quantizers",
        "environment": environment(),
        "blas": library,
        "threads": threads,
        "repeats": repeats,
        "data": quantizers.DATA,
        "arrays": arrays,
        "products": products,
    }


def _add_replay_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="tiny", help="size of the recorded run (default tiny)")
    parser.add_argument("--base", default="fp32", metavar="POLICY", help="of the recorded run (default fp32)")
    parser.add_argument("--policy", nargs="+", metavar="NAME", default=[], help="of the shadows, the first so many")
    _add_common_options(parser, REPEATS)


def _replay(arguments: Arguments) -> int:
    from qsim.bench.replay_table import print_replays, replay_markdown

    return _report(arguments, _measured_replay, replay_markdown, print_replays)


def _measured_replay(arguments: Arguments) -> Result:
    """What ``--json`` prints."""
    from qsim.bench import replay
    from qsim.bench.threads import bandwidth
    from qsim.runs import environment

    policies = list(dict.fromkeys(arguments.policy or replay.POLICIES))
    print(f"shadows of 1 to {len(policies)} policies", file=sys.stderr, flush=True)
    return {
        "benchmark": "replay",
        "environment": environment(),
        "threads": bandwidth().most_threads(),
        "repeats": arguments.repeats,
        "preset": arguments.preset,
        "base": arguments.base,
        "data": replay.DATA,
        "rows": replay.rows(arguments.preset, base=arguments.base, policies=policies, steps=arguments.repeats),
    }


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    bench_train.add_options(parser, _count)
    _add_output_options(parser)


def _add_inference_options(parser: argparse.ArgumentParser) -> None:
    bench_inference.add_options(parser, _count)
    _add_output_options(parser)


def _inference(arguments: Arguments) -> int:
    from qsim.bench.inference_table import inference_markdown, print_inference

    return _report(arguments, _measured_inference, inference_markdown, print_inference)


def _measured_inference(arguments: Arguments) -> Result:
    from qsim.bench.threads import bandwidth

    return bench_inference.measured(arguments, _threads(arguments.threads, bandwidth().most_threads()))


def _add_compile_options(parser: argparse.ArgumentParser) -> None:
    bench_compile.add_options(parser, _count)
    _add_output_options(parser)


def _compile(arguments: Arguments) -> int:
    from qsim.bench.compiling import compiling_markdown, print_compiling

    return _report(arguments, bench_compile.measured, compiling_markdown, print_compiling)


def _threads_of_both(asked: int | None, library: Any, most: int) -> int:
    """Threads of the kernels and of BLAS.  ValueError where BLAS is out of reach and a number is asked for."""
    if library is None and asked is not None:
        raise ValueError("--threads cannot limit NumPy's BLAS here; install threadpoolctl, or leave --threads out")
    return _threads(asked, most)


def _threads(asked: int | None, most: int) -> int:
    if asked is not None and asked > most:
        raise ValueError(f"--threads is {asked}, and there are {most} here; give 1 to {most}")
    return most if asked is None else asked


BENCHMARKS = {
    "rounding": Benchmark(
        text="rounding to fp16, bf16 and e4m3fn against a copy of the array, a cast, other libraries",
        add_options=_add_rounding_options,
        run=_rounding,
    ),
    "gemm": Benchmark(
        text="matrix products under accumulators against NumPy's float32 product on as many threads",
        add_options=_add_gemm_options,
        run=_gemm,
    ),
    "quantizers": Benchmark(
        text="quantizing arrays against a copy of them, quantized products against NumPy's float32 product",
        add_options=_add_quantizers_options,
        run=_quantizers,
    ),
    "train": Benchmark(
        text="a training step under each policy against the same step in plain float32 JAX, compiling it too",
        add_options=_add_train_options,
        run=_train,
    ),
    "replay": Benchmark(
        text="a step of a shadow replay under several policies against their training steps",
        add_options=_add_replay_options,
        run=_replay,
    ),
    "compile": Benchmark(
        text="compiling a training step at two depths, for this CPU or ahead of time for TPUs",
        add_options=_add_compile_options,
        run=_compile,
    ),
    "inference": Benchmark(
        text="a decoder's tokens a second under policies, prompt and decoding, against float32 and torch; memory",
        add_options=_add_inference_options,
        run=_inference,
    ),
}
