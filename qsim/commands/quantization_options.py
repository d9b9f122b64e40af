"""How a model is quantized after training, as ``quantize``, ``evaluate`` and ``generate`` are told."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsim.commands.command import Arguments
from qsim.config import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from qsim.evaluation import Way
    from qsim.importing import Model
    from qsim.post_training import PostTraining

_TOKENS = 8192
_LENGTH = 512  # of a sequence that is calibrated on, at most


def add_quantization_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kv", choices=("int8",), help="keys and values of attention in INT8")
    parser.add_argument(
        "--sites", nargs="+", metavar="SITE", help="which products (default: qkv attention_out mlp_up mlp_down)"
    )
    parser.add_argument(
        "--dequantize-to", choices=("fp16", "bf16", "fp32"), default="fp16",
        help="format that quantized products leave in (default fp16)",
    )  # fmt: skip
    parser.add_argument("--alpha", type=float, help="smooth qkv and mlp_up, 0 to 1 (smoothquant: default 0.5)")
    parser.add_argument("--static", action="store_true", help="ranges of activations from calibration")
    parser.add_argument(
        "--calibration", type=Path, nargs="+", metavar="FILE",
        help="text to calibrate on (default: what a run was trained on)",
    )  # fmt: skip
    parser.add_argument(
        "--calibration-tokens", type=int, default=_TOKENS, metavar="N", help=f"from its beginning (default {_TOKENS})"
    )


def post_training(arguments: Arguments, scheme: str | None, kv: str | None, working: str) -> PostTraining:
    """What the options say of one scheme.  ValueError for what contradicts itself."""
    from qsim.post_training import PostTraining

    given: dict[str, Any] = {"sites": tuple(arguments.sites)} if arguments.sites and scheme is not None else {}
    given |= {"kv": kv, "working": working}
    return PostTraining(
        scheme=scheme, dequantize_to=arguments.dequantize_to, alpha=arguments.alpha, static=arguments.static, **given
    )


def calibration(arguments: Arguments, model: Model) -> tuple[np.ndarray | None, str]:
    """Tokens (B, T), T the model's length or 512, and where they are from; None without text to calibrate on."""
    if arguments.calibration_tokens < 1:
        raise ConfigError(f"--calibration-tokens is {arguments.calibration_tokens}; it must be at least 1")
    if arguments.calibration is None and model.run is None:
        return None, ""
    tokens, source = _tokens(arguments, model)
    length = min(model.config.length, _LENGTH, len(tokens))
    if not length:
        raise ConfigError(f"--calibration {arguments.calibration[0]} holds no text; name files that do")
    return tokens[: len(tokens) // length * length].astype("int32").reshape(-1, length), source


def _tokens(arguments: Arguments, model: Model) -> tuple[np.ndarray, str]:
    most = arguments.calibration_tokens
    if arguments.calibration is None:
        from qsim.data import load_data

        corpus = load_data(model.run.path)  # type: ignore[union-attr]
        return corpus.train[:most], "what the run was trained on"
    text = "\n".join(_text(path) for path in arguments.calibration)
    return model.tokenizer.encode(text[: 64 * most])[:most], ", ".join(path.name for path in arguments.calibration)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--calibration {path} is not UTF-8 at byte {error.start}; name text files") from None


def quantized_ways(arguments: Arguments, own: Way, schemes: Sequence[str]) -> tuple[list[Way], str | None]:
    """A model quantized in each of these schemes; and the text that those which calibrate do so on."""
    from qsim.evaluation import parsed_way

    ways = []
    for text in schemes or (["kv"] if arguments.kv else []):
        scheme, kv = parsed_way(text)
        name = text if kv or not arguments.kv else f"{text}+kv"
        how = post_training(arguments, scheme, kv or arguments.kv, own.policy.parameters)
        ways.append(dataclasses.replace(own, name=name, how=how))
    if not any(way.how and way.how.calibrates for way in ways):
        if arguments.calibration:
            raise ConfigError("--calibration: neither smoothing nor static ranges are asked for; leave it out")
        return ways, None
    tokens, source = calibration(arguments, own.model)
    if tokens is None:
        raise ConfigError("smoothing and static ranges take the activations of some text; give --calibration")
    return [dataclasses.replace(way, calibration=tokens) for way in ways], f"{source}, {tokens.size} tokens"
