"""Freed memory is used again: counted in page faults of a process of its own."""

import platform
import subprocess
import sys

import pytest

COUNT = """
import resource
import torch
from compressm.training import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
def work():
    parts = [torch.ones(10_000_000) for _ in range(2)]  # of 40 MB, which glibc always gives back
for _ in range(3):
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool) -> int:
    code = COUNT.format(keep=keep)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has the setting")
def test_pages_are_asked_for_once() -> None:
    kept, plain = faults(keep=True), faults(keep=False)
    assert plain > 1000
    assert kept < plain / 10


HELD = """
import torch
from compressm.training import keep_freed_memory
from compressm.training.memory import give_back_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
assert keep_freed_memory()
parts = [torch.ones(5_000_000) for _ in range(8)]  # 160 MB
del parts
kept = resident()
give_back_freed_memory()
print(kept - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc has the setting")
def test_what_was_kept_can_be_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 100e6
