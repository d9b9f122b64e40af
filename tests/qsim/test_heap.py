"""Memory of freed arrays serves the next ones."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from qsim.heap import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.empty(1 << 20, np.float64).fill(1.0)  # 8 MiB, 2,048 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if not keep_freed_memory():
    sys.exit(3)
faults()
print(faults())
"""


def test_pages_are_not_mapped_again() -> None:
    """20 arrays of 2,048 pages, made and dropped."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2048
