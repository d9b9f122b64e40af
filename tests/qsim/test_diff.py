"""``diff``: planted faults are named exactly, every time; equal runs are said to be equal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import Cli
from small_runs import assert_sentence, small_run

from qsim.capture import Tensor
from qsim.diff import Difference, diff
from qsim.faults import Fault, parse_fault
from qsim.replay import replay
from qsim.rerun import Rerun
from qsim.runs import RunError, RunFolder
from qsim.site_policy import PASSES

STEPS = 3
CHANGES = {"steps": STEPS, "record.checkpoint_every": 2, "record.statistics_every": 0, "model.dropout": 0.1}
SOME, MANY = 25, 100


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return small_run(tmp_path_factory.mktemp("diff") / "base", "fp16-noscale", **CHANGES)


@pytest.fixture(scope="module")
def tensors(base: RunFolder) -> list[list[Tensor]]:
    """Every tensor of every step."""
    again = Rerun(base)
    position = again.at(0)
    return [again.captured(position) for _ in range(STEPS)]


def faulty(base: RunFolder, fault: Fault, out: Path) -> Difference:
    """What ``diff`` says of a replay that goes as far as the fault's step."""
    other = replay(base, base.policy, out, steps=fault.step, faults=[fault])
    found = diff(base, other, growth=0, every_tensor=True)
    shutil.rmtree(out)
    return found


def place_of(tensor: Tensor, earlier: list[Tensor], element: int) -> int:
    """The element of a tensor, counted through all that its site gave out before."""
    return element + sum(one.after.size for one in earlier if one.key == tensor.key)


def code_of(tensor: Tensor, element: int) -> int:
    """By NumPy's own float16, a format's bits that the code under test has no part in."""
    return int(tensor.after.reshape(-1)[element].astype(np.float16).view(np.uint16))


def drawn(tensors: list[list[Tensor]], seed: int) -> tuple[Fault, Tensor, int]:
    """A flipped bit of a value in fp16 of any site, layer and pass, in any step."""
    random = np.random.default_rng(seed)
    step = int(random.integers(1, STEPS + 1))
    of_sites = [one for one in tensors[step - 1] if one.key.split(".")[-1] in PASSES and one.format is not None]
    wide = [one for one in of_sites if one.format is not None and one.format.name == "fp16"]
    place = int(random.integers(len(wide)))
    tensor = wide[place]
    element = int(random.integers(tensor.after.size))
    *where, site, direction = tensor.key.split(".")
    earlier = [one for one in wide[:place] if one.part < tensor.part]
    fault = Fault(
        step=step,
        layer=int(where[1]) if where else None,
        site=site,
        direction=next(one for one in PASSES if one == direction),
        element=place_of(tensor, earlier, element),
        bit=int(random.integers(16)),
    )
    return fault, tensor, element


def assert_named(found: Difference, fault: Fault, tensor: Tensor, element: int) -> None:
    first = found.first
    assert first is not None
    assert (found.step, first.key, first.part) == (fault.step, tensor.key, tensor.part)
    assert first.stage == "output"
    assert first.different == 1
    assert first.first.flat == element
    assert first.first.index == tuple(np.unravel_index(element, tensor.after.shape))
    assert found.unreproduced == ()


@pytest.mark.thinned(0.5)
@pytest.mark.parametrize(
    "seeds", [range(SOME), pytest.param(range(SOME, MANY), marks=pytest.mark.exhaustive)], ids=str
)
def test_planted_faults_are_all_found(
    base: RunFolder, tensors: list[list[Tensor]], tmp_path: Path, seeds: range
) -> None:
    """Those in masked places, too, which reach no hash."""
    hidden = 0
    for seed in seeds:
        fault, tensor, element = drawn(tensors, seed)
        found = faulty(base, fault, tmp_path / str(seed))
        assert_named(found, fault, tensor, element)
        assert found.first is not None
        code = code_of(tensor, element)
        values = found.first.first
        assert (int(values.code_a, 16), int(values.code_b, 16)) == (code, code ^ (1 << (fault.bit or 0))), fault
        hidden += found.by_hashes is False
    assert 0 < hidden < len(seeds) // 2


@pytest.mark.parametrize("direction", ["fprop", "dgrad"])
def test_a_dropped_subnormal_is_found(
    base: RunFolder, tensors: list[list[Tensor]], tmp_path: Path, direction: str
) -> None:
    """One value below fp16's smallest normal made zero, in the first step."""
    place, tensor, element = next(
        (place, tensor, element)
        for place, tensor in enumerate(tensors[0])
        if tensor.format is not None and tensor.format.name == "fp16" and tensor.key.endswith(direction)
        for element in np.flatnonzero((tensor.after != 0) & (np.abs(tensor.after) < 2.0**-14)).tolist()
    )
    site, _, name = tensor.key.rpartition(".")
    fault = parse_fault(f"1:{site}:{name}:{place_of(tensor, tensors[0][:place], element)}:zero")
    found = faulty(base, fault, tmp_path / "run")
    assert_named(found, fault, tensor, element)
    assert found.first is not None
    assert (found.first.first.a, found.first.first.b) == (tensor.after.reshape(-1)[element], 0.0)


@pytest.mark.parametrize(
    ("place", "part"),
    [("layer.1.mlp_up.fprop", 0), ("layer.0.qkv.dgrad", 0), ("layer.0.attention_out.wgrad", 1)],  # after the bias's
)
def test_a_changed_accumulator_is_found(base: RunFolder, tmp_path: Path, place: str, part: int) -> None:
    """Its sums differ before they are rounded, and the operands do not."""
    rule = (place, {"accumulator": "fp16_fma"})
    other = replay(base, base.policy.override([rule], layers=2), tmp_path / "run", steps=1)
    found = diff(base, other)
    assert found.first is not None
    assert (found.step, found.first.key, found.first.part) == (1, place, part)
    assert found.first.stage == "before rounding"
    assert found.apart == ("policy fp16-noscale and fp16-noscale-rules",)


def test_equal_runs_say_over_what_they_were_compared(base: RunFolder, tmp_path: Path) -> None:
    other = replay(base, base.policy, tmp_path / "run", executor="numpy", steps=2)
    found = diff(base, other, every_tensor=True)
    assert (found.equal, found.compared, found.last, found.apart) == (True, 2, 2, ())


def test_the_growth_of_a_difference(base: RunFolder, tmp_path: Path) -> None:
    fault = parse_fault("1:layer.0.mlp_up:fprop:3:13")
    other = replay(base, base.policy, tmp_path / "run", faults=[fault])
    found = diff(base, other)
    assert [row.step for row in found.growth] == [1, 2, 3]
    assert found.apart == (f"faults none and {fault}",)
    losses = [[row["loss"] for row in run.rows("metrics.jsonl") if "loss" in row] for run in (base, other)]
    assert [[row.loss_a for row in found.growth], [row.loss_b for row in found.growth]] == losses
    one, last = found.growth[0], found.growth[-1]
    assert 0 < one.different <= one.size == base.config.model.parameters
    assert one.relative is not None
    assert last.relative is not None
    assert 0 < one.relative < last.relative


def test_another_start_is_step_0(base: RunFolder, tmp_path: Path) -> None:
    other = small_run(tmp_path / "other", "fp16-noscale", **CHANGES, seed=1)
    found = diff(base, other, growth=0)
    assert (found.step, found.first and found.first.key) == (0, "parameters.embedding.positions")
    assert found.apart == ("seed 0 and 1",)


def test_a_hash_that_its_arithmetic_does_not_give(base: RunFolder, tmp_path: Path) -> None:
    """A recorded hash that was altered, or came of a machine's fault, is told from a difference in arithmetic."""
    other = replay(base, base.policy, tmp_path / "run")
    rows = [json.loads(line) for line in (other.path / "hashes.jsonl").read_text().splitlines()]
    rows[1]["gradients"] = "0" * 64
    (other.path / "hashes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = diff(base, other)
    assert (found.step, found.tensors, found.unreproduced) == (2, (), (str(other.path),))


def test_hashes_kept_now_and_then(tmp_path: Path) -> None:
    """The step is found though neither run has its hash."""
    changes = CHANGES | {"record.hash_every": 3}
    one = small_run(tmp_path / "one", "fp16-noscale", **changes)
    other = replay(one, one.policy, tmp_path / "other", faults=[parse_fault("2:layer.1.gelu:fprop:9:14")])
    found = diff(one, other)
    assert (found.step, found.first and found.first.key) == (2, "layer.1.gelu.fprop")


def test_the_command(base: RunFolder, tmp_path: Path, cli: Cli) -> None:
    other = replay(base, base.policy, tmp_path / "run", faults=[parse_fault("2:logits:fprop:300:9")])
    code, out, _ = cli("diff", base.path, other.path)
    assert code == 1
    assert "first difference: step 2, logits.fprop, output, element [1, 44], flat 300" in out
    code, out, _ = cli("diff", base.path, other.path, "--json")
    values = json.loads(out)
    assert (code, values["step"], values["tensors"][0]["tensor"]) == (1, 2, "logits.fprop")
    code, out, _ = cli("diff", base.path, base.path)
    assert (code, out) == (0, "equal: loss, gradients, parameters, optimizer at 3 steps, the last 3\n")


def test_runs_that_cannot_be_compared(base: RunFolder, tmp_path: Path, cli: Cli) -> None:
    wider = small_run(tmp_path / "wider", "fp16", **(CHANGES | {"model.hidden": 32, "steps": 1}))
    with pytest.raises(RunError) as error:
        diff(base, wider)
    assert_sentence(error.value, "hidden", "one model")
    assert_sentence(cli.refused(tmp_path, "diff", base.path, tmp_path / "nothing"), "nothing", "train wrote")
    assert_sentence(cli.refused(tmp_path, "diff", base.path, base.path, "--steps", -1), "-1", "0 steps or more")
