"""transformers' Llama in a process of its own, asked for one call at a time.

Numba's OpenMP layer lets parallel regions nest, for the whole process: torch's attention, whose threads each call a
product, then starts threads within threads and takes thirteen times as long.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np

from qsim.bench.decoder_readers import Work, opened, random_model, torch_entry, torch_reader
from qsim.decoder_config import DecoderConfig
from qsim.importing import Model

Call = Literal["whole", "by_token"]


class TorchProcess:
    """The calls of ``Work`` for a model, made elsewhere; a context, whose end ends the process."""

    def __init__(self, model: Model, prompt: np.ndarray, *, new: int, threads: int) -> None:
        self.entry = torch_entry(model.config)
        given = {
            "source": None if model.source == Path() else str(model.source),
            "config": asdict(model.config),
            "prompt": prompt.tolist(),
            "new": new,
            "threads": threads,
        }
        command = [sys.executable, "-W", "ignore", "-m", __name__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ask(json.dumps(given))

    def _ask(self, line: str) -> None:
        """Send a line, and wait for the answer.  RuntimeError where none comes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.communicate()
            code = self._process.returncode
            raise RuntimeError(f"the process of torch ended with code {code}; see what it printed above")

    def whole(self) -> None:
        self._ask("whole")

    def by_token(self) -> None:
        self._ask("by_token")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._process.communicate()


def serve() -> None:
    """Read what to work on, then the names of calls; a line is answered when its call is done."""
    given = json.loads(sys.stdin.readline())
    config = DecoderConfig(**given["config"])
    source = given["source"]
    model = random_model(config) if source is None else opened(Path(source))
    reader = torch_reader(model, given["threads"])
    work = Work(reader=reader, prompt=np.array(given["prompt"], np.int32), new=given["new"])
    calls = {"whole": work.whole, "by_token": work.by_token}
    print("ready", flush=True)
    for line in sys.stdin:
        calls[line.strip()]()
        print("done", flush=True)


if __name__ == "__main__":
    serve()
