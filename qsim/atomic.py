"""Files that are whole or absent, and lines that are.

Where the system refuses a write (a full disk, no permission), the OSError names the file that was to be written, not
the temporary one, and no temporary file stays.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

_TEMPORARY = (".*.tmp", "*.orbax-checkpoint-tmp*")


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Replace ``path`` by ``data``; a crash or an error at any point leaves the old file as it was.

    The bytes reach the disk under a temporary name in the same folder before the name changes hands.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path):
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside it to write into, which takes its name at the end; an error leaves nothing."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with naming(folder):
            temporary.mkdir(parents=True)
        yield temporary
        with naming(folder):
            if folder.is_dir():  # an empty one
                folder.rmdir()
            os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def append_line(path: Path, line: str) -> None:
    """Add a line to a file; an error leaves the file as it was, a kill at worst part of the line at its end."""
    with naming(path), path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        rest = memoryview(line.encode() + b"\n")
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except BaseException:
            with suppress(OSError):
                file.truncate(end)
            raise


def sync_file(path: Path) -> None:
    """Let what was written to a file reach the disk."""
    with naming(path), path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the new name durable; only POSIX can open a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that a killed writer left in a folder."""
    for path in chain.from_iterable(map(folder.glob, _TEMPORARY)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError of the system raised inside names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
