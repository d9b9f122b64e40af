"""Results into the folder that is committed: rows, tables, pictures and verdicts, no tokens and no runs.

    python -m experiments.publish experiments-small experiments/results/small

Of the data its description is kept, whose hash every row has; ``qsim experiment all --scale small --no-make --out
experiments/results/small`` judges and draws what was committed once more.  What an earlier publication left there and
this one has not is deleted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from qsim import strict_json
from qsim.atomic import write_atomically

PATTERNS = ("*.csv", "*.jsonl", "verdicts.json", "*.svg", "*.png")
LARGEST = 8 * 2**20  # bytes of a file, as many as three seeds of all have: a repository carries it for ever
DESCRIPTION = Path("data") / "data.json"


def publish(source: Path, out: Path) -> list[Path]:
    """Copy; the paths that were written.  ValueError where there are no rows, or a file is too large."""
    found = sorted({path for pattern in PATTERNS for path in source.glob(pattern)})
    if not (source / "rows.jsonl").is_file() or not (source / DESCRIPTION).is_file():
        raise ValueError(f"{str(source)!r} holds no rows.jsonl or {DESCRIPTION}; name what qsim experiment wrote")
    for path in found:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{str(path)!r} has {path.stat().st_size:,} bytes; the most that is kept is {LARGEST:,}")
    (out / "data").mkdir(parents=True, exist_ok=True)
    for pattern in PATTERNS:
        for old in out.glob(pattern):
            old.unlink()
    for path in found:
        write_atomically(out / path.name, path.read_bytes())
    write_atomically(out / DESCRIPTION, _described(source / DESCRIPTION))
    return [*(out / path.name for path in found), out / DESCRIPTION]


def _described(path: Path) -> bytes:
    """Texts by their names alone: where they lay is nobody's concern."""
    told = strict_json.loads(path.read_text(encoding="utf-8"))
    told["sources"] = [Path(name).name for name in told["sources"]]
    return (strict_json.dumps(told, indent=2) + "\n").encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="what qsim experiment wrote (--out)")
    parser.add_argument("out", type=Path, help="experiments/results/SCALE")
    arguments = parser.parse_args()
    written = publish(arguments.source, arguments.out)
    print(f"{len(written)} files, {sum(path.stat().st_size for path in written):,} bytes, in {arguments.out}")


if __name__ == "__main__":
    main()
