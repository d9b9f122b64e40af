"""What-if counts are those of rounding the recorded tensors, at every scale; files, windows and bad input."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from command_line import Cli
from safetensors.numpy import save_file
from small_runs import assert_sentence, small_run

import precision as pr
from precision.format import Format
from qsim.capture import Tensor
from qsim.config import ConfigError
from qsim.ranges import Source, joined, offered, read_sources
from qsim.rerun import Rerun
from qsim.runs import RunError, RunFolder

SCALES = np.arange(-30, 45)
CHANGES = {"record.statistics_every": 3, "steps": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return small_run(tmp_path_factory.mktemp("ranges") / "run", "fp16", **CHANGES)


@pytest.fixture(scope="module")
def tensors(run: RunFolder) -> list[Tensor]:
    """Of step 3."""
    again = Rerun(run)
    return again.captured(again.at(2))


def thresholds(fmt: Format) -> tuple[float, float, bool]:
    """(what underflows at or below; the tie above the largest value, and whether it stays), in rationals."""
    quantum = Fraction(2) ** (int(np.frexp(fmt.maximum)[1]) - 1 - fmt.significand_bits)
    largest = Fraction(fmt.maximum)
    return float(Fraction(fmt.min_subnormal) / 2), float(largest + quantum / 2), (largest / quantum) % 2 == 0


def counted(x: np.ndarray, fmt: Format, scale: int) -> tuple[int, int]:
    """By comparison of float64 products, which a power of two leaves exact."""
    low, high, stays = thresholds(fmt)
    sizes = np.ldexp(np.abs(x[np.isfinite(x)].astype(np.float64)), scale)
    beyond = sizes > high if stays else sizes >= high
    return int(np.count_nonzero((sizes > 0) & (sizes <= low))), int(np.count_nonzero(beyond))


def values_of(tensors: list[Tensor], key: str) -> np.ndarray:
    return np.concatenate([one.before.reshape(-1) for one in tensors if one.key == key and one.before is not None])


@pytest.mark.parametrize("name", ["fp16", "bf16", "tf32", "e5m2", "e4m3fn", "e4m3fnuz", "e2m1", "e3m2"])
def test_counts_of_a_run_are_those_of_its_tensors(run: RunFolder, tensors: list[Tensor], name: str) -> None:
    """At every scale, whatever loss scale was in the recorded gradients, of every site and pass."""
    fmt, found = pr.parse_format(name), read_sources(run.path, step=3)
    recorded = next(row["loss_scale"] for row in run.rows("metrics.jsonl") if row["step"] == 3)
    own = int(np.log2(recorded))
    assert own > 10
    assert len(found) > 60
    for source in found:
        x = values_of(tensors, source.name)
        shift = own if source.scaled else 0
        under, over = source.underflowed(fmt, SCALES), source.overflowed(fmt, SCALES)
        for i in range(0, SCALES.size, 7):
            assert (under[i], over[i]) == counted(x, fmt, int(SCALES[i]) - shift), (source.name, SCALES[i])


def test_and_of_numpy_rounding_them(run: RunFolder, tensors: list[Tensor]) -> None:
    """fp16 by NumPy's own cast from float64, every scale."""
    (source,) = read_sources(run.path, step=3, pattern="layer.0.scores.dgrad")
    x = values_of(tensors, source.name).astype(np.float64)
    own = source.tables[0][1]
    for k, lost, beyond in zip(
        SCALES, source.underflowed(pr.FP16, SCALES), source.overflowed(pr.FP16, SCALES), strict=True
    ):
        scaled = np.ldexp(x, int(k) - own)
        with np.errstate(over="ignore"):
            cast = scaled.astype(np.float16)
        assert lost == np.count_nonzero((cast == 0) & (scaled != 0))
        assert beyond == np.count_nonzero(np.isinf(cast))


def test_all_steps_each_under_its_own_loss_scale(tmp_path: Path) -> None:
    """A run whose scale was halved in between."""
    base = small_run(tmp_path / "base", "fp32", **CHANGES)
    from qsim.policy import POLICIES
    from qsim.replay import replay
    from qsim.stages import LossScaling

    loud = POLICIES["fp16"].with_(name="loud", loss_scaling=LossScaling(mode="dynamic", initial=2.0**26))
    run = replay(base, loud, tmp_path / "loud")
    steps = [read_sources(run.path, step=step, pattern="logits.dgrad")[0] for step in (1, 3)]
    assert steps[0].tables[0][1] == 26
    assert steps[1].tables[0][1] < 26
    (whole,) = read_sources(run.path, pattern="logits.dgrad")
    both = joined("both", steps)
    np.testing.assert_array_equal(whole.underflowed(pr.FP16, SCALES), both.underflowed(pr.FP16, SCALES))
    assert whole.finite == sum(one.finite for one in steps)


def source_of(values: list[float], tmp_path: Path) -> Source:
    np.save(tmp_path / "x.npy", np.array(values, np.float32))
    (source,) = read_sources(tmp_path / "x.npy")
    return source


def test_edges_that_exponents_alone_do_not_tell(tmp_path: Path) -> None:
    """65519 and 65520 in fp16; 2^-25, a tie that goes to zero, and the float32 above it."""
    at = np.array([0])
    source = source_of([65519.0, 65520.0, 2.0**-25, np.nextafter(np.float32(2.0**-25), np.float32(1))], tmp_path)
    assert (source.overflowed(pr.FP16, at)[0], source.underflowed(pr.FP16, at)[0]) == (1, 1)
    source = source_of([464.0, 465.0], tmp_path)  # e4m3fn: the tie above 448 goes to 448, which is even
    assert source.overflowed(pr.E4M3FN, at)[0] == 1


def test_windows(tmp_path: Path) -> None:
    source = source_of([2.0**-30, 1.0], tmp_path)
    window = source.window(pr.FP16, SCALES)
    assert (window.low, window.high) == (6, 15)
    assert (window.best, window.lost) == (6, 0)
    none = source_of([2.0**-60, 1.0, 3.0], tmp_path).window(pr.FP16, SCALES)
    assert (none.low, none.high) == (None, None)
    assert none.lost == 1


def test_files_of_tensors(tmp_path: Path, cli: Cli) -> None:
    tensors = {"a": np.array([1e-9, 2.0], np.float32), "b": np.array([1e-3], np.float16)}
    tensors["c"] = np.array([3e38], ml_dtypes.bfloat16)
    save_file(tensors, tmp_path / "x.safetensors")
    found = cli.rows("whatif", tmp_path / "x.safetensors", "--format", "fp16")
    assert [(row["values"], row["finite"]) for row in found] == [("a", 2), ("b", 1), ("c", 1)]
    assert found[0]["underflowed"]["0"] == 1
    assert found[2]["overflowed"]["0"] == 1


def test_the_command_on_a_run(run: RunFolder, cli: Cli) -> None:
    code, out, _ = cli("whatif", run.path)
    assert code == 0
    assert "activation gradients" in out
    assert "fp16: nothing that a loss scale multiplies is lost from 2^" in out
    found = cli.rows("whatif", run.path, "--by", "site", "--format", "all", "--sites", "*.dgrad", "--step", 1)
    assert {row["format"] for row in found} == set(offered())
    assert len(offered()) > 20
    assert {row["values"] for row in found} >= {"scores.dgrad", "logits.dgrad"}


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--format", "int8"), ["int8", "fp16"]),
        (("--format", "e9m9x"), ["e9m9x"]),
        (("--scales", "3"), ["'3'", "LOW:HIGH"]),
        (("--scales", "3:1"), ["'3:1'", "empty"]),
        (("--step", 2), ["step 2", "[1, 3]"]),
        (("--sites", "nowhere"), ["'nowhere'", "names are like"]),
    ],
)
def test_what_is_refused(
    run: RunFolder, tmp_path: Path, cli: Cli, words: tuple[object, ...], parts: list[str]
) -> None:
    assert_sentence(cli.refused(tmp_path, "whatif", run.path, *words), *parts)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("x.npy", b"no array", ["x.npy"]),
        ("x.safetensors", b"\x08\0\0\0\0\0\0\0{}", ["x.safetensors", "restore it"]),
        ("x.bin", b"", ["x.bin", ".npy or .safetensors"]),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, cli: Cli, name: str, content: bytes, parts: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    assert_sentence(cli.refused(tmp_path, "whatif", tmp_path / name), *parts)


def test_arrays_that_are_no_floats(tmp_path: Path) -> None:
    for array, words in ((np.arange(3), "int64"), (np.ones(2), "float64"), (np.array(["a"]), "x.npy")):
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(RunError) as error:
            read_sources(tmp_path / "x.npy")
        assert_sentence(error.value, words)
    np.save(tmp_path / "x.npy", np.ones(2, np.float32))
    with pytest.raises(ConfigError):
        read_sources(tmp_path / "x.npy", step=1)


def test_statistics_of_before_significands_were_counted(run: RunFolder, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(run.path, tmp_path / "old")
    path = tmp_path / "old" / "statistics" / "step_000001.json"
    file = json.loads(path.read_text())
    for record in file["sites"].values():
        del record["significands"]
    path.write_text(json.dumps(file))
    with pytest.raises(RunError) as error:
        read_sources(tmp_path / "old")
    assert_sentence(error.value, "step_000001.json", "train the run again")
