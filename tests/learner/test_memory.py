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

_RESIDENT = """
import psutil, torch
from learner.memory import keep_freed_memory, release_freed_memory
def resident_mib():
    return psutil.Process().memory_info().rss // 2**20
keep_freed_memory()
large, after_it = torch.ones(96 * 2**20 // 4), torch.ones(2**20 // 4)
full = resident_mib()
del large
print(full - resident_mib())
release_freed_memory()
print(full - resident_mib())
"""


def _faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", _FAULTS, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told")
def test_freed_memory_is_used_again_instead_of_being_asked_for_anew():
    # A page fault is a page, or up to 512 of them at once.
    assert _faults("keep") * 10 < _faults("leave")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told")
def test_what_is_kept_between_others_can_be_handed_back() -> None:
    done = subprocess.run([sys.executable, "-c", _RESIDENT], check=True, capture_output=True, text=True)
    freed, released = map(int, done.stdout.split())
    assert freed < 10
    assert released > 80
