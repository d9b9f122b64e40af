"""The whole product in one go: train in fp32, replay under three formats, quantize, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from qsim.checkpoints import load_checkpoint
from qsim.config import RunConfig
from qsim.data import load_data
from qsim.policy import parse_policy
from qsim.progress import Progress, silent
from qsim.ptq import quantization_error
from qsim.replay import replay
from qsim.report import write_report
from qsim.runs import RunFolder, require_new
from qsim.training import train_new

REPLAYS = ("bf16", "fp16-noscale", "fp16")


def quantize_run(run: RunFolder, policy: str = "fp16") -> None:
    """INT8 error of a finished run's weights and activations, "before" being the model under ``policy``."""
    config = run.config
    parameters = load_checkpoint(run.path, config.steps).state["parameters"]
    error = quantization_error(config, parse_policy(policy), run.executor, parameters, load_data(run.path, None))
    run.write_json("quantization.json", error)


def demo(
    out: Path,
    config: RunConfig,
    executor: str,
    text: Sequence[Path] | None = None,
    *,
    progress: Callable[..., Progress] = silent,
) -> tuple[RunFolder, list[RunFolder], Path]:
    """(base run, its replays, report.html) under ``out``."""
    require_new(out)
    base = train_new(out / "fp32", config, "fp32", executor, text, progress=progress)
    replays = [replay(base, parse_policy(name), out / "replays" / name, progress=progress) for name in REPLAYS]
    quantize_run(base)
    report = write_report(base.path, [run.path for run in replays], out / "report.html")
    return base, replays, report
