"""The command line: ``qsim train | replay | verify | report | demo | policy | formats | accumulators``.

Bad input is one sentence on standard error and exit code 2; Ctrl-C is exit code 130.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from precision.backends import BACKENDS
from qsim import config as configuration
from qsim.config import PRESETS, ConfigError, RunConfig

Arguments = argparse.Namespace
DEFAULT_EXECUTOR = "numba"


class _Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; raises SystemExit."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(arguments)
    try:
        parsed.overrides = _dotted(rest)
        if parsed.overrides and not hasattr(parsed, "config"):
            raise ConfigError(f"unexpected argument {rest[0]!r}; see qsim {parsed.command} --help")
        raise SystemExit(parsed.run(parsed))
    except KeyboardInterrupt:
        print(f"qsim {parsed.command}: interrupted; what was saved is whole{_hint(parsed)}", file=sys.stderr)
        raise SystemExit(130) from None
    except (ValueError, OSError) as error:
        if parsed.traceback:
            raise
        print(f"qsim {parsed.command}: {_sentence(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror.lower()}: {error.filename}"
    return " ".join(str(error).split())


def _hint(parsed: Arguments) -> str:
    resumable = parsed.command in ("train", "replay") and getattr(parsed, "out", None)
    return ", and the same command with --resume goes on from there" if resumable else ""


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="qsim", description="What does a number format do to a language model?")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, run: Callable[[Arguments], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("--json", action="store_true", help="print the result as JSON")
        added.add_argument("--traceback", action="store_true", help="on an error, show where it came from")
        added.set_defaults(run=run)
        return added

    demo = command("demo", _demo, "train, replay under three formats, quantize, report")
    _add_run_options(demo, "demo, or demo-2, demo-3 ... where that exists")
    _add_run_options(command("train", _train, "train a GPT under a policy into a run folder"))
    _add_replay(command("replay", _replay, "run a recorded run again under other arithmetic"))
    _add_verify(command("verify", _verify, "run a recorded run again and compare every hash"))
    report = command("report", _report, "write report.html for a run and its replays")
    report.add_argument("base", type=Path, metavar="RUN")
    report.add_argument("replays", type=Path, nargs="*", metavar="REPLAY")
    report.add_argument("--out", type=Path, default=Path("report.html"), help="the page to write")
    policy = command("policy", _policy, "print the resolved table of a policy")
    policy.add_argument("name", nargs="?", metavar="NAME")
    command("formats", _formats, "print the number formats")
    command("accumulators", _accumulators, "print the ways of summing a dot product")
    return parser


def _add_run_options(parser: argparse.ArgumentParser, out: str | None = None) -> None:
    default = f" (default {out})" if out else ""
    parser.add_argument("--preset", default=None, help=f"one of {', '.join(PRESETS)} (default tiny)")
    parser.add_argument("--executor", choices=BACKENDS, help="default numba")
    parser.add_argument("--text", type=Path, nargs="+", metavar="PATH", help="text to train on; embedded otherwise")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", type=Path, required=out is None, help="new folder" + default)
    parser.add_argument(
        "--config", type=Path, metavar="FILE.yaml", help="configuration; dotted overrides follow it, as in "
        "--model.dropout 0.1",
    )  # fmt: skip
    if out is None:
        parser.add_argument("--policy", help="default fp32; see qsim policy")
        parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", type=Path, metavar="RUN")
    parser.add_argument("--as", dest="policies", action="append", required=True, metavar="POLICY")
    parser.add_argument("--executor", choices=BACKENDS, help="default: that of RUN")
    parser.add_argument("--steps", type=int, help="only the first so many steps")
    parser.add_argument("--out", type=Path, required=True, help="folder for one run folder a policy")
    parser.add_argument("--data", type=Path, help="where the tokens of RUN now lie")
    parser.add_argument("--resume", action="store_true", help="go on with interrupted replays")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", type=Path, metavar="RUN")
    parser.add_argument("--executor", choices=BACKENDS, help="default: that of RUN")
    parser.add_argument("--steps", type=int, help="only the first so many steps")
    parser.add_argument("--data", type=Path, help="where the tokens of RUN now lie")


def _dotted(rest: Sequence[str]) -> list[tuple[str, Any]]:
    """``--model.dropout 0.1`` or ``--model.dropout=0.1`` as (key, value), values read as YAML."""
    pairs: list[tuple[str, Any]] = []
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or "." not in word.split("=")[0]:
            raise ConfigError(f"unexpected argument {word!r}; overrides are dotted, as in --model.dropout 0.1")
        key, found, value = word.removeprefix("--").partition("=")
        if not found:
            if not words:
                raise ConfigError(f"override {word!r} has no value; give one, as in {word} 0.1")
            value = words.pop(0)
        pairs.append((key, _yaml(value, word)))
    return pairs


def _yaml(text: str, whose: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{whose} does not hold valid YAML; it begins {text[:40]!r}") from None
    return _numbers(value)


def _numbers(value: Any) -> Any:
    """Text that is a number as that number, in mappings too: YAML 1.1 reads 3e-4 as text."""
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _config_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 at byte {error.start}; give a YAML file") from None
    values = _yaml(text, str(path))
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{path} does not hold a mapping of configuration keys; write lines such as steps: 100")
    return values or {}


def _config(arguments: Arguments) -> RunConfig:
    """Preset, then file, then --steps and --seed, then dotted overrides."""
    named = None if arguments.config is None else _config_file(arguments.config).get("preset")
    config = configuration.preset(arguments.preset or named or "tiny")
    return configuration.override_all(config, _pairs(arguments))


def _pairs(arguments: Arguments) -> list[tuple[str, Any]]:
    """What the file and the options say, key by key, the later ones prevailing."""
    values = {} if arguments.config is None else _config_file(arguments.config)
    pairs = [(key, value) for key, value in values.items() if key != "preset"]
    pairs += [(key, getattr(arguments, key)) for key in ("steps", "seed") if getattr(arguments, key) is not None]
    return pairs + arguments.overrides


def _print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from qsim.summary import print_table

    print_table(rows)


def _check_unchanged(arguments: Arguments, run: Any) -> None:
    """A resumed run is the run that was begun: an option given again must say the same."""
    asked = {"policy": arguments.policy, "executor": arguments.executor, "preset": arguments.preset}
    begun = {"policy": run.policy.name, "executor": run.executor, "preset": run.config.preset}
    changed = [f"--{name} {asked[name]}" for name in asked if asked[name] not in (None, begun[name])]
    for key, value in _pairs(arguments):
        if configuration.override_all(run.config, [(key, value)]) != run.config:
            changed.append(f"--{key} {value}")
    if changed:
        raise ConfigError(f"a resumed run keeps what it was begun with, and {changed[0]} differs; leave it out")


def _train(arguments: Arguments) -> int:
    from qsim import progress
    from qsim.replay import resume
    from qsim.runs import RunFolder
    from qsim.summary import summarise
    from qsim.training import train_new

    if arguments.resume:
        begun = RunFolder.open(arguments.out)
        _check_unchanged(arguments, begun)
        run = resume(begun, progress=progress.shown)
    else:
        config = _config(arguments)
        run = train_new(
            arguments.out,
            config,
            arguments.policy or "fp32",
            arguments.executor or DEFAULT_EXECUTOR,
            arguments.text,
            progress=progress.shown,
        )
    _print_rows(summarise(run.path, []), arguments.json)
    return 0


def _replay(arguments: Arguments) -> int:
    from qsim import progress
    from qsim.policy import parse_policy
    from qsim.replay import replay, resume
    from qsim.runs import RunFolder, require_new
    from qsim.summary import summarise

    base = RunFolder.open(arguments.base)
    policies = [parse_policy(name) for name in dict.fromkeys(arguments.policies)]
    folders = {policy.name: arguments.out / policy.name for policy in policies}
    begun = {name for name, folder in folders.items() if (folder / "config.json").is_file()}
    for name, folder in folders.items():
        if not (arguments.resume and name in begun):
            require_new(folder)
    for policy in policies:
        if arguments.resume and policy.name in begun:
            resume(RunFolder.open(folders[policy.name]), data=arguments.data, progress=progress.shown)
            continue
        replay(
            base,
            policy,
            folders[policy.name],
            executor=arguments.executor,
            steps=arguments.steps,
            data=arguments.data,
            progress=progress.shown,
        )
    _print_rows(summarise(base.path, list(folders.values())), arguments.json)
    return 0


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
    with tempfile.TemporaryDirectory() as folder:
        again = replay(
            base,
            base.policy,
            Path(folder) / "again",
            executor=arguments.executor,
            steps=arguments.steps,
            data=arguments.data,
            progress=progress.shown,
        )
        verdict = compare_hashes(read_run(base.path), read_run(again.path))
        executor = again.executor
    equal = verdict.startswith("equal")
    result = {"run": str(base.path), "executor": executor, "equal": equal, "hashes": verdict}
    words = f"{base.path} again on {executor}: {'hashes ' + verdict if equal else 'first difference at ' + verdict}"
    print(json.dumps(result, indent=1) if arguments.json else words)
    return 0 if equal else 1


def _report(arguments: Arguments) -> int:
    from qsim.report import write_report

    path = write_report(arguments.base, arguments.replays, arguments.out)
    print(json.dumps({"report": str(path)}) if arguments.json else f"wrote {path}")
    return 0


def _demo(arguments: Arguments) -> int:
    from qsim import progress
    from qsim.demo import demo
    from qsim.summary import print_quantization, summarise

    config = _config(arguments)
    out = arguments.out or _unused(Path("demo"))
    base, replays, report = demo(
        out, config, arguments.executor or DEFAULT_EXECUTOR, arguments.text, progress=progress.shown
    )
    rows = summarise(base.path, [run.path for run in replays])
    if arguments.json:
        print(json.dumps({"runs": rows, "report": str(report)}, indent=1))
        return 0
    _print_rows(rows, False)
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


def _policy(arguments: Arguments) -> int:
    from qsim.policy import POLICIES, parse_policy

    if arguments.name is None:
        print(json.dumps(list(POLICIES)) if arguments.json else "\n".join(POLICIES))
        return 0
    policy = parse_policy(arguments.name).as_json()
    if arguments.json:
        print(json.dumps(policy, indent=1))
        return 0
    print(f"{policy['name']}: parameters {policy['parameters']}, loss scaling {policy['loss_scaling']}")
    _print_columns(policy["sites"])
    return 0


def _formats(arguments: Arguments) -> int:
    from precision import FORMATS

    rows = [
        {
            "format": f.name,
            "bits": f.bits,
            "exponent bits": f.exponent_bits,
            "significand bits": f.significand_bits,
            "maximum": f.maximum,
            "smallest normal": f.min_normal,
            "smallest subnormal": f.min_subnormal,
            "epsilon": f.epsilon,
        }
        for f in FORMATS.values()
    ]
    print(json.dumps(rows, indent=1)) if arguments.json else _print_columns(rows)
    return 0


def _accumulators(arguments: Arguments) -> int:
    from precision import ACCUMULATORS

    rows = [
        {"accumulator": a.name, "definition": a.description, "evidence": a.evidence} for a in ACCUMULATORS.values()
    ]
    print(json.dumps(rows, indent=1)) if arguments.json else _print_columns(rows)
    return 0


def _print_columns(rows: list[dict[str, Any]]) -> None:
    """Rows of equal keys as aligned columns."""
    cells = [list(rows[0])] + [[_cell(value) for value in row.values()] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.8g}" if isinstance(value, float) else str(value)
