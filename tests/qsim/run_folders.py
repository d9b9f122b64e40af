"""Synthetic run folders: what training, replay and quantization leave, with numbers a test chooses."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

SITES = (
    "layernorm_1",
    "qkv",
    "scores",
    "softmax",
    "values",
    "attention_out",
    "residual",
    "mlp_up",
    "gelu",
    "mlp_down",
)
WEIGHTED = ("qkv", "attention_out", "mlp_up", "mlp_down")


def fingerprint(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def loss_curve(steps: int, *, drift: float = 0.0) -> list[float]:
    """A falling loss with deterministic noise; the drift grows with the step."""
    noise = [0.06 * math.sin(12.9898 * i) * math.cos(4.1 * i * i) for i in range(1, steps + 1)]
    return [
        2.2 + 3.3 * math.exp(-i / 60) + n + drift * (i / steps) ** 3 * (1 + n) for i, n in enumerate(noise, start=1)
    ]


def counts(exponents: Mapping[int, int], **counters: int) -> dict[str, Any]:
    """A record of a site whose nonzero values have these exponents."""
    zero = counters.pop("zero", 0)
    record = dict.fromkeys(("became_subnormal", "underflowed", "overflowed", "nan", "infinite"), 0)
    record |= {"count": sum(exponents.values()) + zero, "zero": zero, **counters}
    return {"format": "fp16", **record, "exponents": {str(e): n for e, n in exponents.items()}}


def bell(centre: float, width: float, number: int) -> dict[int, int]:
    """Exponents around a centre, as products of many factors are spread."""
    shares = {e: math.exp(-(((e - centre) / width) ** 2) / 2) for e in range(-70, 30)}
    total = sum(shares.values())
    return {e: n for e, s in shares.items() if (n := round(number * s / total))}


def statistics(layers: int, *, shift: float = 0.0, loses: bool = False) -> dict[str, Any]:
    """Every site and pass of a model; gradients lie where fp16 begins to lose them."""
    sites: dict[str, Any] = {}
    for layer in range(layers):
        for i, site in enumerate(SITES):
            sites[f"layer.{layer}.{site}.fprop"] = counts(bell(-2 - 0.3 * i, 2.5, 80_000), zero=13)
            sites[f"layer.{layer}.{site}.dgrad"] = _gradients(-15 - 0.5 * i - layer + shift, 60_000, loses)
            if site in WEIGHTED:
                sites[f"layer.{layer}.{site}.wgrad"] = _gradients(-12 - layer + shift, 20_000, loses)
                sites[f"layer.{layer}.{site}.weights"] = counts(bell(-5, 1.6, 20_000))
    sites["embedding.fprop"] = counts(bell(-6, 1.5, 30_000))
    sites["embedding.wgrad"] = _gradients(-14 + shift, 30_000, loses) | {"zero": 20_000, "count": 50_000}
    sites["logits.fprop"] = counts(bell(0, 2, 90_000), overflowed=7 if loses else 0)
    sites["loss.dgrad"] = _gradients(-18 + shift, 90_000, loses)
    return sites


def _gradients(centre: float, number: int, loses: bool) -> dict[str, Any]:
    exponents = bell(centre, 4, number)
    under = sum(n for e, n in exponents.items() if e < -25)
    subnormal = sum(n for e, n in exponents.items() if -25 <= e < -14)
    return counts(exponents, **({"underflowed": under, "became_subnormal": subnormal} if loses else {}))


def quantization(layers: int) -> dict[str, Any]:
    rows = []
    for layer in range(layers):
        for i, site in enumerate(WEIGHTED):
            row: dict[str, Any] = {"layer": layer, "site": site}
            for tensor, worse in (("input", 1.0), ("weight", 0.4), ("output", 1.7)):
                rmse = 0.004 * worse * (1 + 0.3 * i) * (1 + 0.15 * layer)
                row |= {f"{tensor}_rmse": rmse, f"{tensor}_sqnr_db": -20 * math.log10(rmse * 1.7)}
            rows.append(row)
    losses = {"before": 2.3127, "after": 2.3261}
    return {"scheme": "int8_vectorwise", "layers": rows, "validation_loss": losses, "tokens": 65_536}


def policy(name: str, *, scaling: str = "none") -> dict[str, Any]:
    short = name.split("-")[0]
    sites = [
        {
            "site": site,
            "pass": way,
            "inputs": short,
            "accumulator": "fp32_sequential",
            "inner": "fp32",
            "output": short,
        }
        for site in SITES
        for way in ("fprop", "dgrad", "wgrad")
    ]
    return {"name": name, "sites": sites, "loss_scaling": {"kind": scaling, "initial": 65536.0}}


def write_run(
    folder: Path,
    name: str,
    losses: Sequence[float],
    *,
    planned: int | None = None,
    scales: Sequence[float] | None = None,
    skipped: Iterable[int] = (),
    differs_from: int | None = None,
    held_out: float | None = None,
    sites: Mapping[str, Any] | None = None,
    quantized: Mapping[str, Any] | None = None,
) -> Path:
    """A run folder of len(losses) steps whose hashes leave the common ones at the step ``differs_from``."""
    folder.mkdir(parents=True)
    steps, left_out = range(1, len(losses) + 1), set(skipped)
    rows = [
        {"step": i, "loss": losses[i - 1], "learning_rate": 3e-3, "gradient_norm": 1.0, "seconds": 0.03}
        | {"loss_scale": scales[i - 1] if scales else 1.0, "skipped": i in left_out}
        for i in steps
    ]
    hashes = [
        {"step": i} | {part: _hash_of(part, i, name, differs_from) for part in ("loss", "gradients", "parameters")}
        for i in steps
    ]
    if held_out is not None:
        rows.append({"step": len(losses), "validation_loss": held_out})
    _write_json(folder / "config.json", _config(name, planned or len(losses), "dynamic" if scales else "none"))
    _write_json(folder / "environment.json", {"python": "3.11", "numpy": "2.4", "cpu": "a CPU", "git": "0" * 40})
    _write_json(
        folder / "data.json",
        {"sha256": fingerprint("data"), "count": 1_115_394, "sources": ["a.txt", "b.txt"]},
    )
    for file, lines in (("metrics.jsonl", rows), ("hashes.jsonl", hashes)):
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in lines))
    if sites is not None:
        (folder / "statistics").mkdir()
        _write_json(folder / f"statistics/step_{len(losses):06d}.json", {"step": len(losses), "sites": sites})
    if quantized is not None:
        _write_json(folder / "quantization.json", quantized)
    return folder


def _hash_of(part: str, step: int, name: str, differs_from: int | None) -> str:
    apart = differs_from is not None and step >= differs_from
    return fingerprint(part, step, name if apart else "")


def _config(name: str, steps: int, scaling: str) -> dict[str, Any]:
    return {
        "preset": "tiny",
        "model": {"layers": 2, "hidden": 64, "heads": 2, "length": 64, "vocabulary": 256, "dropout": 0.1},
        "training": {"steps": steps, "batch_size": 8, "learning_rate": 3e-3},
        "policy": policy(name, scaling=scaling),
        "executor": "numba",
        "seed": 0,
        "parent": None,
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def write_study(folder: Path, *, steps: int = 300, layers: int = 4) -> tuple[Path, list[Path]]:
    """A base run and replays of every temper: close, skipping, drifting, broken, interrupted."""
    scales = [65536.0 * 2 ** -sum(i >= at for at in (2, 3, 140)) * 2 ** (i // 120) for i in range(1, steps + 1)]
    broken = [*loss_curve(121, drift=0.9), *[math.nan] * (steps - 121)]
    tiny = [x + 1e-5 * 1.025**i * math.sin(0.7 * i * i) for i, x in enumerate(loss_curve(steps))]
    base = write_run(
        folder / "fp32",
        "fp32",
        loss_curve(steps),
        held_out=2.3127,
        sites=statistics(layers),
        quantized=quantization(layers),
    )
    lossy, clean = statistics(layers, loses=True), statistics(layers)
    dynamic: dict[str, Any] = {"scales": scales, "skipped": (2, 3, 140)}
    runs = folder / "replays"
    return base, [
        write_run(runs / "bf16", "bf16", tiny, differs_from=1, held_out=2.3191, sites=clean),
        write_run(
            runs / "fp16",
            "fp16",
            loss_curve(steps, drift=0.02),
            differs_from=1,
            held_out=2.3201,
            sites=statistics(layers, shift=9, loses=True),
            **dynamic,
        ),
        write_run(
            runs / "fp16-noscale",
            "fp16-noscale",
            loss_curve(steps, drift=0.4),
            differs_from=1,
            held_out=2.69,
            sites=lossy,
        ),
        write_run(runs / "fp16-pure", "fp16-pure", broken, differs_from=1, sites=lossy),
        write_run(
            runs / "int8-fprop",
            "int8-fprop",
            loss_curve(steps // 2, drift=0.05),
            planned=steps,
            differs_from=1,
        ),
    ]


# What replays and attributions leave beside.


def write_shadow(folder: Path, name: str, errors: Sequence[float], *, layers: int = 2) -> Path:
    """A shadow replay whose gradients and updates lie that far off step by step, with propagation of the last."""
    run = write_run(folder, name, loss_curve(len(errors)), differs_from=1, sites=statistics(layers, loses=True))
    config = json.loads((run / "config.json").read_text()) | {"mode": "shadow"}
    _write_json(run / "config.json", config)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row, error in zip(rows, errors, strict=True):
        row |= {"loss_base": row["loss"], "gradient_error": error, "update_error": 2 * error}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = run / f"statistics/step_{len(errors):06d}.json"
    _write_json(path, json.loads(path.read_text()) | {"propagation": propagation(layers)})
    return run


def propagation(layers: int) -> dict[str, Any]:
    """In the order of computing: forwards through the layers, backwards through them again."""
    forwards = [f"layer.{i}.{site}.fprop" for i in range(layers) for site in SITES]
    backwards = [
        f"layer.{i}.{site}.{way}" for i in reversed(range(layers)) for site in SITES[::-1] for way in _ways(site)
    ]
    keys = ["embedding.fprop", *forwards, "logits.fprop", "loss.dgrad", *backwards]
    return {key: {"rounding": 1e-3 + 1e-5 * i, "error": 1e-3 * (1 + i)} for i, key in enumerate(keys)}


def _ways(site: str) -> tuple[str, ...]:
    return ("wgrad", "dgrad") if site in WEIGHTED else ("dgrad",)


def attribution(units: Sequence[str], *, broken: str | None = None) -> dict[str, Any]:
    """What ``qsim attribute --out`` writes; no batch of the unit ``broken`` had finite gradients."""

    def cost(unit: str, way: str, size: float) -> dict[str, Any]:
        found = {"mean": size, "low": 0.9 * size, "high": 1.2 * size}
        nothing = dict.fromkeys(found) if unit == broken else found
        counted = {"underflowed": 7, "overflowed": 0, "not_finite": 2 * (unit == broken)}
        return {"unit": unit, "way": way, "loss": found, "gradient": nothing, "update": nothing, **counted}

    sizes = {unit: 0.5 / (i + 1) for i, unit in enumerate(units)}
    head = {"base": "fp32", "other": "fp16", "step": 3, "batches": 2, "scale": 1024.0}
    return head | {
        "whole": cost("everything", "alone", 1.0),
        "alone": [cost(unit, "alone", size) for unit, size in sizes.items()],
        "all_but": [cost(unit, "all but", 1 - size) for unit, size in reversed(sizes.items())],
        "parts": [cost(f"{units[0]}: input", "alone", 0.1)],
    }
