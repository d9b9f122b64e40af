"""Recorded runs as a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qsim.report import findings
from qsim.report.recorded import Run, read_run

GRADIENTS = ("dgrad", "wgrad")


def summarise(base: Path, replays: Sequence[Path]) -> list[dict[str, Any]]:
    """One row a run: policy, losses, what its gradients lost, and where its hashes part from the base."""
    first = read_run(base)
    rows = [_row(first, None)]
    return rows + [_row(read_run(path), first) for path in replays]


def _row(run: Run, base: Run | None) -> dict[str, Any]:
    return {
        "policy": run.policy.get("name", run.label),
        "steps": run.last_step,
        "loss": run.losses.get(run.last_step),
        "held_out_loss": run.held_out.get(run.last_step),
        "gradients_underflowed": run.total("underflowed", GRADIENTS),
        "gradients_nonzero": run.total("nonzero", GRADIENTS),
        "overflowed": run.total("overflowed"),
        "skipped_steps": len(run.skipped),
        "hashes_differ_from_base": None if base is None else findings.compare_hashes(base, run),
        "parameters_sha256": run.hashes.get(run.last_step, {}).get("parameters"),
        "run": str(run.folder),
    }


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """The rows, aligned, in the words of the report."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    heads = (
        "policy",
        "loss",
        "held-out",
        "gradients underflowed",
        "overflowed",
        "skipped",
        "hashes differ from",
    )
    for i, head in enumerate(heads):
        table.add_column(head, justify="left" if i in (0, 6) else "right", no_wrap=True)
    for row in rows:
        lost = findings.share(row["gradients_underflowed"], row["gradients_nonzero"])
        table.add_row(
            row["policy"],
            findings.loss(row["loss"]),
            findings.loss(row["held_out_loss"]),
            f"{row['gradients_underflowed']:,} ({lost})",
            f"{row['overflowed']:,}",
            str(row["skipped_steps"]),
            row["hashes_differ_from_base"] or "",
        )
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)


def print_quantization(base: Path) -> None:
    """INT8 of the base run's final weights and activations, in three lines."""
    quantization = read_run(base).quantization
    if quantization is None:
        return
    losses, layers = quantization["validation_loss"], quantization["layers"]
    worst = min(layers, key=lambda row: row["output_sqnr_db"])
    change = findings.signed(losses["after"] - losses["before"])
    print(
        f"\nINT8 vector-wise, weights and activations: held-out loss {losses['before']:.4f} in fp16, "
        f"{losses['after']:.4f} in INT8 ({change})\nworst output: layer {worst['layer']} {worst['site']}, "
        f"SQNR {worst['output_sqnr_db']:.1f} dB"
    )
