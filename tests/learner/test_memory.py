import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
import torch
from learner.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def use():
    return float(torch.ones(16 * 2**20 // 4).sum() + torch.zeros(64 * 2**20 // 4).sum())
for _ in range(4):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", _FAULTS, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told")
def test_freed_memory_is_used_again_instead_of_being_asked_for_anew():
    # A page fault is a page, or up to 512 of them at once.
    assert _faults("keep") * 10 < _faults("leave")
