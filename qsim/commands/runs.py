"""``qsim demo | train | verify | report``: what makes, checks and shows runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precision.backends import BACKENDS
from qsim import config as configuration
from qsim import strict_json
from qsim.commands.command import AddCommand, Arguments
from qsim.commands.options import (
    add_inject,
    add_mesh_options,
    add_process_options,
    add_run_options,
    asked_faults,
    asked_mesh,
    asked_processes,
    given_pairs,
    output_of_libraries_apart,
    resolved_config,
    ruled,
)
from qsim.config import ConfigError
from qsim.mesh import Mesh

if TYPE_CHECKING:
    from qsim.config import RunConfig
    from qsim.data import Corpus
    from qsim.position import FirstWeights
    from qsim.runs import RunFolder

DEFAULT_EXECUTOR = "numba"


def add(command: AddCommand) -> None:
    demo = command("demo", _demo, "train, replay under three formats, quantize, report")
    add_run_options(demo, "demo, or demo-2, demo-3 ... where that exists")
    train = command("train", _train, "train a GPT under a policy into a run folder")
    add_run_options(train)
    train.add_argument("--from", dest="start", type=Path, metavar="MODEL", help="start from its weights: a run, "
                       "a checkpoint, or a GPT-2 folder that qsim export wrote")  # fmt: skip
    add_mesh_options(train)
    train.add_argument(
        "--machine", metavar="NAME", help="refuse to run on any other; as qsim plan names them: v4-128"
    )
    add_process_options(train)
    add_inject(train)
    _add_verify(command("verify", _verify, "run a recorded run again and compare every hash"))
    report = command("report", _report, "write report.html for a run and its replays")
    report.add_argument("base", type=Path, metavar="RUN", help="or the word experiments, then the folder of rows")
    report.add_argument("replays", type=Path, nargs="*", metavar="REPLAY")
    report.add_argument("--out", type=Path, default=Path("report.html"), help="the page to write")
    report.add_argument(
        "--attribution", type=Path, action="append", default=[], metavar="FILE.json", help="what qsim attribute wrote"
    )
    report.add_argument("--files", type=Path, metavar="DIR", help="also every figure there, as .svg and .csv")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", type=Path, metavar="RUN")
    parser.add_argument("--executor", choices=BACKENDS, help="default: that of RUN")
    parser.add_argument("--steps", type=int, help="only the first so many steps")
    parser.add_argument("--data", type=Path, help="where the tokens of RUN now lie")
    add_mesh_options(parser)


def print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """What ``qsim.summary`` says of runs."""
    if as_json:
        print(strict_json.dumps(rows, indent=1))
        return
    from qsim.summary import print_table

    print_table(rows)


def _check_unchanged(arguments: Arguments, run: Any) -> None:
    """A resumed run is the run that was begun: an option given again must say the same."""
    from qsim.policy import parse_policy

    asked = {"policy": arguments.policy, "executor": arguments.executor, "preset": arguments.preset}
    if arguments.rules:
        policy = ruled(parse_policy(arguments.policy or "fp32"), arguments.rules, run.config.model.layers)
        asked["policy"] = policy.name
        if policy.sha256 != run.policy.sha256:
            raise ConfigError(f"a resumed run keeps its policy, and {policy.name} as asked differs; leave out --rule")
    begun = {"policy": run.policy.name, "executor": run.executor, "preset": run.config.preset}
    if arguments.faults and list(map(str, run.faults)) != arguments.faults:
        raise ConfigError("a resumed run keeps the faults it was begun with; leave out --inject")
    changed = [f"--{name} {asked[name]}" for name in asked if asked[name] not in (None, begun[name])]
    for key, value in given_pairs(arguments):
        if configuration.override_all(run.config, [(key, value)]) != run.config:
            changed.append(f"--{key} {value}")
    if arguments.start is not None:
        changed.append(f"--from {arguments.start}")
    if changed:
        raise ConfigError(f"a resumed run keeps what it was begun with, and {changed[0]} differs; leave it out")


def _train(arguments: Arguments) -> int:
    from qsim.processes import ending_with_the_others, join_processes
    from qsim.runs import require_new
    from qsim.summary import summarise

    mesh, others = asked_mesh(arguments), asked_processes(arguments)
    if not arguments.resume:
        require_new(arguments.out)  # in every process, before the first of them may write
    if others is None:
        run = _trained(arguments, mesh)
    else:
        with output_of_libraries_apart():
            mesh, leads = join_processes(*others, mesh)
            remedy = "start all of them again with --resume, from what was saved"
            with ending_with_the_others(remedy, show=arguments.traceback):
                run = _trained(arguments, mesh)
        if not leads:
            return 0
    print_rows(summarise(run.path, []), arguments.json)
    return 0


def _trained(arguments: Arguments, mesh: Mesh | None) -> RunFolder:
    """The run carried to its end."""
    from precision.backends import get_backend
    from qsim import progress
    from qsim.planning.machines import check_present, parse_machine
    from qsim.policy import parse_policy
    from qsim.replay import resume
    from qsim.runs import RunFolder
    from qsim.training import train_new

    if arguments.machine is not None:
        check_present(parse_machine(arguments.machine), get_backend("jax").devices.kinds())
    if arguments.resume:
        begun = RunFolder.open(arguments.out)
        _check_unchanged(arguments, begun)
        return resume(begun, progress=progress.shown, mesh=mesh)
    config, weights, corpus = _beginning(arguments)
    return train_new(
        arguments.out,
        config,
        ruled(parse_policy(arguments.policy or "fp32"), arguments.rules, config.model.layers),
        arguments.executor or ("jax" if mesh else DEFAULT_EXECUTOR),
        arguments.text,
        progress=progress.shown,
        mesh=mesh,
        faults=asked_faults(arguments),
        weights=weights,
        corpus=corpus,
    )


def _beginning(arguments: Arguments) -> tuple[RunConfig, FirstWeights | None, Corpus | None]:
    """Configuration, and the weights of --from with the tokens of that run, where no other text is given."""
    if arguments.start is None:
        return resolved_config(arguments), None, None
    from qsim.data import load_data
    from qsim.importing import open_model
    from qsim.importing.starting import first_weights, starting_config

    model = open_model(arguments.start)
    config = starting_config(model, resolved_config(arguments), given_pairs(arguments))
    corpus = None if model.run is None or arguments.text else load_data(model.run.path)
    return config, first_weights(model), corpus


def _verify(arguments: Arguments) -> int:
    """Exit code 0 where every hash compared is equal, 1 where one differs."""
    import tempfile

    from qsim import progress
    from qsim.replay import replay
    from qsim.report.findings import compare_hashes
    from qsim.report.recorded import read_run
    from qsim.runs import RunError, RunFolder

    base = RunFolder.open(arguments.base)
    if not any(arguments.steps is None or step <= arguments.steps for step in base.hashes()):
        what = f"run {str(base.path)!r} recorded no hash of the steps to compare"
        raise RunError(f"{what}; raise --steps or train with --record.hash_every 1")
    if not base.policy.promises_bits:
        raise RunError(f"run {str(base.path)!r} multiplies natively and promises no hash; train without native GEMMs")
    with tempfile.TemporaryDirectory() as folder:
        again = replay(
            base,
            base.policy,
            Path(folder) / "again",
            executor=arguments.executor,
            steps=arguments.steps,
            data=arguments.data,
            progress=progress.shown,
            mesh=asked_mesh(arguments),
            faults=[fault for fault in base.faults if arguments.steps is None or fault.step <= arguments.steps],
        )
        verdict = compare_hashes(read_run(base.path), read_run(again.path))
        executor = again.executor
    equal = verdict.startswith("equal")
    result = {"run": str(base.path), "executor": executor, "equal": equal, "hashes": verdict}
    words = f"{base.path} again on {executor}: {'hashes ' + verdict if equal else 'first difference at ' + verdict}"
    print(json.dumps(result, indent=1) if arguments.json else words)
    return 0 if equal else 1


def _report(arguments: Arguments) -> int:
    from qsim.report import read_report

    if arguments.base == Path("experiments"):
        return _report_experiments(arguments)
    report = read_report(arguments.base, arguments.replays, arguments.attribution)
    path = report.write(arguments.out)
    files = report.write_files(arguments.files) if arguments.files else []
    if arguments.json:
        paths = {"report": str(path), "files": list(map(str, files))}
        print(strict_json.dumps(paths | report.as_json(), indent=1))
    else:
        print(f"wrote {path}" + (f" and {len(files)} files into {arguments.files}" if files else ""))
    return 0


def _report_experiments(arguments: Arguments) -> int:
    """The page of a folder that ``qsim experiment`` wrote, as REPLAY."""
    from importlib import import_module

    folders = arguments.replays or [Path("experiments-small")]
    if len(folders) > 1 or arguments.attribution or arguments.files:
        raise ConfigError("report experiments takes one folder of rows, and --out; leave the rest out")
    path = import_module("experiments.page").write_page(folders[0], arguments.out)
    print(json.dumps({"report": str(path)}) if arguments.json else f"wrote {path}")
    return 0


def _demo(arguments: Arguments) -> int:
    from qsim import progress
    from qsim.demo import demo
    from qsim.summary import print_quantization, summarise

    config = resolved_config(arguments)
    out = arguments.out or _unused(Path("demo"))
    base, replays, report = demo(
        out, config, arguments.executor or DEFAULT_EXECUTOR, arguments.text, progress=progress.shown
    )
    rows = summarise(base.path, [run.path for run in replays])
    if arguments.json:
        print(strict_json.dumps({"runs": rows, "report": str(report)}, indent=1))
        return 0
    print_rows(rows, False)
    print_quantization(base.path)
    print(f"\nthe same run, four ways, and what broke: {report}")
    return 0


def _unused(path: Path) -> Path:
    """path, or the first of path-2, path-3 ... that does not exist."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
