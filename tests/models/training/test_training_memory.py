"""Memory that a step frees stays with the process."""

import platform
import resource
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration

PROGRAM = """
import resource, torch
from models.training.memory import keep_freed_memory
assert keep_freed_memory()
def faults():
    for _ in range(20):
        torch.zeros(1 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
first = faults()
print(faults() - first)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_second_round_of_allocations_takes_no_new_pages() -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    pages = 20 * (4 << 20) // resource.getpagesize()
    assert int(found.stdout) < pages // 100
