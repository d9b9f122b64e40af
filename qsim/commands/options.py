"""What ``train`` and ``demo`` are told: options, a configuration file, dotted overrides, in that order."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import yaml

from precision.backends import BACKENDS
from qsim import config as configuration
from qsim.commands.command import Arguments
from qsim.config import PRESETS, CheckpointForm, ConfigError, RunConfig
from qsim.mesh import Mesh, parse_mesh

if TYPE_CHECKING:
    from qsim.faults import Fault
    from qsim.policy import Arithmetic

FORMS = get_args(CheckpointForm)


def add_run_options(parser: argparse.ArgumentParser, out: str | None = None) -> None:
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
        add_rule(parser)
        parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
        parser.add_argument("--checkpoints", choices=FORMS, help="default safetensors; orbax: each process "
                            "writes its own shards, while it computes on")  # fmt: skip


def add_rule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rule", dest="rules", action="append", default=[], metavar="PATTERN=VALUE",
        help="change sites of the policy, later rules prevailing, as in 'layer.3.mlp_up.wgrad=bf16' or "
        "'layernorm_*={inner: fp16}'",
    )  # fmt: skip


def ruled(policy: Arithmetic, rules: Sequence[str], layers: int | None = None) -> Arithmetic:
    """The policy under the rules of the command line; itself without any."""
    return policy.override([_rule(text) for text in rules], layers=layers) if rules else policy


def _rule(text: str) -> tuple[str, Any]:
    pattern, found, value = text.partition("=")
    change = _yaml(value, f"--rule {text!r}") if found else None
    if not isinstance(change, str | dict):
        raise ConfigError(f"--rule {text!r} is no PATTERN=VALUE; VALUE is a policy or fields, as in {{inner: fp16}}")
    return pattern, change


def add_mesh_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, metavar="N", help="JAX devices, each with a part of the batch")
    parser.add_argument("--mesh", metavar="data=D,model=M", help="D parts of the batch by M of every weight matrix")


def add_process_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--distributed", action="store_true", help="one of several processes, as the cluster says")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens, without a cluster")
    parser.add_argument("--processes", type=int, metavar="N", help="how many there are")
    parser.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")


def check_out(out: Path | None) -> None:
    """A file to be written after minutes of work, looked at before them."""
    if out is not None and out.is_dir():
        raise ConfigError(f"--out {str(out)!r} is a folder; name a file in it")
    if out is not None and not out.parent.is_dir():
        raise ConfigError(f"--out: {str(out.parent)!r} is not a folder; make it first")


def add_inject(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--inject", dest="faults", action="append", default=[], metavar="STEP:SITE:PASS:ELEMENT:BIT",
        help="plant a fault: flip a bit of one value, as in 3:layer.0.mlp_up:fprop:17:12; BIT zero makes it 0",
    )  # fmt: skip


def asked_faults(arguments: Arguments) -> list[Fault]:
    from qsim.faults import parse_fault

    return list(map(parse_fault, arguments.faults))


def asked_mesh(arguments: Arguments) -> Mesh | None:
    """What --devices or --mesh says; None without either.  ConfigError where it cannot be."""
    if arguments.mesh is not None and arguments.devices is not None:
        raise ConfigError("--devices N is --mesh data=N; give one of them")
    if arguments.devices is None:
        return None if arguments.mesh is None else parse_mesh(arguments.mesh)
    if arguments.devices < 1:
        raise ConfigError(f"--devices is {arguments.devices}; a run needs at least 1")
    return Mesh(data=arguments.devices)


def asked_processes(arguments: Arguments) -> tuple[str | None, int | None, int | None] | None:
    """(coordinator, processes, process), each None where the cluster is to say; None for a process by itself."""
    given = (arguments.coordinator, arguments.processes, arguments.process)
    if all(one is None for one in given):
        return given if arguments.distributed else None
    if any(one is None for one in given):
        raise ConfigError(
            "--coordinator, --processes and --process go together; give all three, or none on a cluster"
        )
    if not 0 <= arguments.process < arguments.processes:
        raise ConfigError(f"--process is {arguments.process}; it must be 0 to {arguments.processes - 1}")
    return given


@contextmanager
def output_of_libraries_apart() -> Iterator[None]:
    """Standard output goes to standard error meanwhile: what joins processes reports there, past Python."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def dotted(rest: Sequence[str]) -> list[tuple[str, Any]]:
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


def resolved_config(arguments: Arguments) -> RunConfig:
    """Preset, then file, then --steps and --seed, then dotted overrides."""
    named = None if arguments.config is None else _config_file(arguments.config).get("preset")
    config = configuration.preset(arguments.preset or named or "tiny")
    return configuration.override_all(config, given_pairs(arguments))


def given_pairs(arguments: Arguments) -> list[tuple[str, Any]]:
    """What the file and the options say, key by key, the later ones prevailing."""
    values = {} if arguments.config is None else _config_file(arguments.config)
    pairs = [(key, value) for key, value in values.items() if key != "preset"]
    pairs += [(key, getattr(arguments, key)) for key in ("steps", "seed") if getattr(arguments, key) is not None]
    if getattr(arguments, "checkpoints", None) is not None:
        pairs.append(("record.checkpoints", arguments.checkpoints))
    return pairs + arguments.overrides
