"""What the back ends have in common beyond arithmetic: scans, ordered sums, maxima, scatters, cached kernels."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from bits_assertions import assert_same_bits
from executors import EXECUTORS, Executor
from hypothesis import given
from hypothesis import strategies as st
from strategies import EDGES, drawn, generator, patterns, sprinkled

import precision
from precision.backends import BACKENDS, get_backend, numba_
from precision.backends.numba_ import compilation
from precision.backends.numba_.compilation import Kernel
from precision.random_bits import Stream
from precision.rounding_modes import Rounding

UP, STOCHASTIC = Rounding(mode="up"), Rounding(mode="stochastic")
STREAM = Stream((1, 2), 0xFFFFFFF0)
MINUS_ZERO = oracles.Real(True, Fraction(0))


# The same names


def test_back_ends_offer_the_same_names() -> None:
    facade = {name for name in get_backend("numpy").__all__ if name != "name"}
    for name in BACKENDS:
        module = get_backend(name)
        assert module.name == name
        missing = sorted(operation for operation in facade if not hasattr(module, operation))
        assert not missing


def test_unknown_back_end() -> None:
    with pytest.raises(ValueError, match=r"^unknown backend 'cupy'; choose one of numpy, numba, jax\Z"):
        get_backend("cupy")


# Ordered sums


def tree(numbers: list[oracles.Real]) -> oracles.Real:
    """Neighbours added until one is left; padded with -0."""
    numbers = [oracles.flushed(x, "fp32") for x in numbers] or [MINUS_ZERO]
    while len(numbers) & (len(numbers) - 1):
        numbers.append(MINUS_ZERO)
    while len(numbers) > 1:
        numbers = [oracles.ftz_add(x, y) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
    return numbers[0]


def tree_rows(words: np.ndarray) -> np.ndarray:
    return oracles.write_all(tree(oracles.read_all(row)) for row in words)


@pytest.mark.parametrize("width", [0, 1, 2, 3, 7, 8, 33, 100])
def test_tree_sum(backend: Executor, width: int) -> None:
    rng = generator(91)
    ranges = ((120, 130), (0, 4), (250, 254), (0, 255))
    words = np.concatenate([drawn(rng, (6, width), exponents) for exponents in ranges])
    words = np.concatenate([words, np.full((1, width), 1 << 31, np.uint32), sprinkled(rng, words[:6], 0.2)])
    assert_same_bits(backend.apply("tree_sum", words.view(np.float32)), tree_rows(words), any_nan=True)


@pytest.mark.parametrize(
    ("shape", "axis"), [((5, 6, 7), 0), ((5, 6, 7), 1), ((5, 6, 7), -2), ((6, 1), 0), ((4, 0), 1)]
)
def test_tree_sum_over_any_axis(backend: Executor, shape: tuple[int, ...], axis: int) -> None:
    words = drawn(generator(92), shape, (110, 140))
    moved = np.moveaxis(words, axis, -1)
    expected = tree_rows(moved.reshape(-1, shape[axis])) if words.size else np.full(4, 1 << 31, np.uint32)
    found = backend.apply("tree_sum", words.view(np.float32), axis=axis)
    assert_same_bits(found, expected.reshape(moved.shape[:-1]))


@pytest.mark.parametrize("width", [1, 3, 8, 20])
@given(seed=st.integers(0, 2**32))
def test_tree_sum_of_blocks_is_the_tree_of_their_sums(width: int, seed: int) -> None:
    """Aligned power-of-two blocks, each on its own device, give the bits of the whole."""
    rng = generator(seed)
    x = drawn(rng, (1, 8 * width), (115, 140)).view(np.float32)
    numpy = get_backend("numpy")
    size = 1 << (width - 1).bit_length()
    padded = np.concatenate([x, np.full((1, 8 * size - 8 * width), -0.0, np.float32)], axis=1)
    blocks = numpy.tree_sum(padded.reshape(8, size))
    assert_same_bits(numpy.tree_sum(blocks), numpy.tree_sum(x)[0])


# Maxima


def largest(row: list[int], mask: list[bool]) -> int:
    """Pattern of the largest value; NaN wins, +0 is above -0, subnormals read as zeros; NaN where none is allowed."""
    numbers = [oracles.flushed(oracles.read(u), "fp32") for u, allowed in zip(row, mask, strict=True) if allowed]
    if not numbers or any(x.is_nan for x in numbers):
        return oracles.NAN_BITS
    order = [(-x.magnitude if x.negative else x.magnitude, not x.negative, x) for x in numbers]
    return oracles.write(max(order, key=lambda entry: entry[:2])[2])


@pytest.mark.parametrize("masked", [False, True])
def test_row_max(backend: Executor, masked: bool) -> None:
    rng = generator(93)
    words = np.concatenate([sprinkled(rng, drawn(rng, (12, 9), low), 0.1) for low in ((0, 255), (120, 130), (0, 1))])
    words = np.concatenate([words, np.full((1, 9), 1 << 31, np.uint32), np.zeros((1, 9), np.uint32)])
    words[-1, 3] = 1 << 31
    mask = rng.random(words.shape) < 0.6
    mask[5] = False
    arguments = (words.view(np.float32), mask) if masked else (words.view(np.float32),)
    rows = zip(words.tolist(), (mask if masked else np.ones_like(mask)).tolist(), strict=True)
    expected = np.array([[largest(row, allowed)] for row, allowed in rows], np.uint32)
    assert_same_bits(backend.apply("row_max", *arguments), expected, any_nan=True)


def test_row_max_repeats_its_mask(backend: Executor) -> None:
    """A causal mask (T, T) over scores (batch, T, T)."""
    words = drawn(generator(94), (3, 5, 5), (100, 140))
    mask = np.tril(np.ones((5, 5), bool))
    found = backend.apply("row_max", words.view(np.float32), mask)
    expected = [[[largest(row, mask[i].tolist())] for i, row in enumerate(block)] for block in words.tolist()]
    assert_same_bits(found, np.array(expected, np.uint32))


@pytest.mark.parametrize(("shape", "axis"), [((6, 7), -1), ((6, 7), 0), ((2, 3, 4), 1), ((3, 0), 1), ((0, 3), 1)])
def test_absmax(backend: Executor, shape: tuple[int, ...], axis: int) -> None:
    """By bits: subnormals count, NaN wins and is canonical."""
    rng = generator(95)
    words = sprinkled(rng, drawn(rng, shape, (0, 2)), 0.2)
    magnitude = np.where((words & 0x7FFFFFFF) > 0x7F800000, oracles.NAN_BITS, words & 0x7FFFFFFF).astype(np.uint32)
    expected = magnitude.max(axis=axis, keepdims=True, initial=0)
    assert_same_bits(backend.apply("absmax", words.view(np.float32), axis=axis), expected)


# Scatters


@pytest.mark.parametrize("shape", [(3, 12, 4), (1, 1, 1), (2, 0, 3), (2, 5, 1)])
def test_scatter_add_rows(backend: Executor, shape: tuple[int, int, int]) -> None:
    """Row after row, from +0; the order shows, because float addition is not associative."""
    chunks, rows, width = shape
    rng, size = generator(96), 4
    words = drawn(rng, shape, (110, 140))
    words[:, : rows // 4] = 1 << 31  # -0 into +0 is +0
    words[:1, :1] = 1 << 31
    indices = rng.integers(0, size, (chunks, rows)).astype(np.int32)
    expected = np.zeros((chunks, size, width), np.uint32)
    for c in range(chunks):
        for r in range(rows):
            for j in range(width):
                total = oracles.read(expected[c, indices[c, r], j])
                expected[c, indices[c, r], j] = oracles.write(oracles.ftz_add(total, oracles.read(words[c, r, j])))
    assert_same_bits(backend.apply("scatter_add_rows", indices, words.view(np.float32), size=size), expected)


# Scans


def running(carry: Any, xs: Any) -> tuple[Any, Any]:
    total = carry["total"] + xs["x"]
    return {"total": total, "count": carry["count"] + 1}, {"sum": total, "pair": (xs["inner"]["y"] * 2, None)}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 5])
def test_scan(backend: Executor, reverse: bool, length: int) -> None:
    xs = {
        "x": np.arange(length * 2, dtype=np.float32).reshape(length, 2),
        "inner": {"y": np.arange(length, dtype=np.float32)},
    }
    start = {"total": np.zeros(2, np.float32), "count": np.int32(0)}
    carry, ys = backend.module.scan(running, *jax.tree.map(backend.array, (start, xs)), reverse=reverse)
    order = range(length - 1, -1, -1) if reverse else range(length)
    total, sums = np.zeros(2, np.float32), [None] * length
    for i in order:
        total = total + xs["x"][i]
        sums[i] = total
    expected = (
        {"total": total, "count": np.int32(length)},
        {"sum": np.stack(sums), "pair": (xs["inner"]["y"] * 2, None)},
    )
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, (carry, ys)), expected)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.tree.map(np.asarray, carry), expected[0])


def test_scan_with_results_of_none(backend: Executor) -> None:
    xs = backend.array(np.arange(4, dtype=np.float32))
    carry, ys = backend.module.scan(lambda c, x: (c * 2 + x, None), backend.array(np.float32(0)), xs)
    assert float(carry) == 11.0
    assert ys is None


def test_jit_is_the_function_of_the_same_values(backend: Executor) -> None:
    compiled = backend.module.jit(lambda x: x + 1)
    assert np.asarray(compiled(backend.array(np.float32([1, 2])))).tolist() == [2.0, 3.0]


def test_tracing_happens_once_a_shape() -> None:
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(lambda x: precision.round_to(x, "fp16"), n=1))
    for value in range(5):
        traced(jnp.full(3, float(value)))


# One thread or all: the same bits


@pytest.fixture
def parallel(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    return lambda on: monkeypatch.setattr(Kernel, "PARALLEL_FROM", 0 if on else 1 << 62)


@pytest.mark.thinned(0.34)
@pytest.mark.parametrize(
    "operation",
    [
        lambda m, x: m.round_to(x, precision.FP16),
        lambda m, x: m.round_to(x, precision.BF16),
        lambda m, x: m.round_to(x, precision.INT8),
        lambda m, x: m.round_to(x, precision.FP16, UP),
        lambda m, x: m.round_to(x, precision.FP16, STOCHASTIC, STREAM),
        lambda m, x: m.round_to(x, precision.E8M0, STOCHASTIC, STREAM),
        lambda m, x: m.round_to(x.astype(np.float64) / 3, precision.FP16, UP),
        lambda m, x: m.encode(x, precision.BF16),
        lambda m, x: m.encode(x, precision.E4M3FN, UP),
        lambda m, x: m.decode(x.view(np.uint8), precision.E4M3FN),
        lambda m, x: m.multiply(x, x[:1]),
        lambda m, x: m.tree_sum(x),
        lambda m, x: m.tree_sum(x, axis=0),
        lambda m, x: m.row_max(x),
        lambda m, x: m.random_words((1, 2), (700,)),  # noqa: ARG005
        lambda m, x: m.random_words((1, 2), (700,), np.arange(700, dtype=np.uint64) << np.uint64(30)),  # noqa: ARG005
    ],
    ids=[
        "by addition",
        "same range",
        "generic",
        "directed",
        "stochastic",
        "generic stochastic",
        "float64",
        "encode",
        "encode directed",
        "decode",
        "multiply",
        "tree rows",
        "tree columns",
        "row_max",
        "random_words",
        "random_words of counters",
    ],
)
def test_threads_change_nothing(operation: Callable, parallel: Callable[[bool], None]) -> None:
    rng = generator(97)
    words = np.concatenate([drawn(rng, (60, 21), (90, 140)), np.resize(EDGES, (4, 21))])
    signalling = (words & 0x7FFFFFFF > 0x7F800000) & (words & 0x00400000 == 0)
    x = np.where(signalling, np.uint32(0x7FC00000), words).view(np.float32)  # NumPy warns when it widens one
    parallel(False)
    serial = operation(get_backend("numba"), x)
    parallel(True)
    assert_same_bits(operation(get_backend("numba"), x), serial, any_nan=True)


# Compiled kernels know their sources


def stamp_of(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(compilation, "_ROOT", root)
    return compilation.source_stamp.__wrapped__()


def test_stamp_changes_with_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(precision.__file__).parent
    copy = tmp_path / "precision"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    stamps = {stamp_of(copy, monkeypatch)}
    assert stamps == {compilation.source_stamp()}
    sources = sorted(copy.rglob("*.py"))
    assert {"bits.py", "double.py", "ftz.py", "exponential.py", "format.py", "formats.py", "scalars.py"} <= {
        path.name for path in sources
    }
    for path in sources:
        path.write_bytes(path.read_bytes() + b"\n")
        stamps.add(stamp_of(copy, monkeypatch))
    assert len(stamps) == 1 + len(sources)
    (copy / "bits.py").rename(copy / "bytes.py")
    assert stamp_of(copy, monkeypatch) not in stamps


def test_stamp_ignores_what_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "backends" / "numba_").mkdir(parents=True)
    (tmp_path / "bits.py").write_text("x = 1\n")
    before = stamp_of(tmp_path, monkeypatch)
    (tmp_path / "bits.nbi").write_text("cache")
    assert stamp_of(tmp_path, monkeypatch) == before


def kernel_modules() -> list[ModuleType]:
    """Every module of the back end that has loops of its own."""
    names = [name for _, name, _ in pkgutil.iter_modules(numba_.__path__)]
    modules = [importlib.import_module(f"{numba_.__name__}.{name}") for name in names]
    return [module for module in modules if kernels_of(module)]


def kernels_of(module: ModuleType) -> list[Kernel]:
    return [value for value in vars(module).values() if isinstance(value, Kernel)]


def test_every_kernel_carries_the_stamp() -> None:
    modules = kernel_modules()
    found = {module.__name__.rpartition(".")[2] for module in modules}
    assert {"bandwidth", "gemm", "kernels", "rounding_kernels", "tally_kernels"} <= found
    dispatchers = [d for m in modules for k in kernels_of(m) for d in (k._serial, k._parallel)]
    for module in modules:
        own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
        dispatchers += [value for value in own if hasattr(getattr(value, "_cache", None), "_cache_file")]
    assert len(dispatchers) > 60
    for dispatcher in dispatchers:
        assert dispatcher._cache._cache_file._source_stamp == compilation.source_stamp()
        assert not dispatcher.targetoptions.get("fastmath")


def test_kernels_have_cache_files_of_their_own() -> None:
    """One thread and all: two functions of one source, whose cached code must not be mixed up."""
    for module in kernel_modules():
        for value in kernels_of(module):
            serial, parallel = (d._cache._cache_file._index_name for d in (value._serial, value._parallel))
            assert serial != parallel
            assert re.sub(r"_parallel-", "-", parallel) == serial


@given(st.lists(patterns, min_size=1, max_size=8))
def test_flush_reads_no_more_than_bits(words: list[int]) -> None:
    x = np.array(words, np.uint32)
    expected = np.where(x & 0x7F800000 == 0, x & np.uint32(1 << 31), x)
    for backend in EXECUTORS[:2]:
        assert_same_bits(backend.apply("flush", x.view(np.float32)), expected, x)
