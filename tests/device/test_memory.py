"""Memory for data: what is asked for is given; a process can be told to keep what it frees."""

from __future__ import annotations

import subprocess
import sys

from daiko.device.memory import unfilled


def test_unfilled_memory_is_a_bytearray_of_its_own() -> None:
    one, other = unfilled(4096), unfilled(4096)
    one[:] = b"1" * 4096
    other[:] = b"2" * 4096
    assert type(one) is bytearray
    assert one == b"1" * 4096
    assert unfilled(0) == b""


PROGRAM = """
import resource
from daiko.device.memory import keep_freed_memory, unfilled
if {keeps}:
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def use():
    held = [unfilled(1 << 20) for _ in range(8)]
    for each in held:
        each[::4096] = bytes(256)
use()
before = faults()
for _ in range(10):
    use()
print(faults() - before)
"""


def page_faults(keeps: bool) -> int:
    program = PROGRAM.format(keeps=keeps)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_kept_memory_is_used_again_without_asking_the_kernel() -> None:
    assert page_faults(keeps=True) < 200
    assert page_faults(keeps=False) > 10_000, "or the setting has no use any more"
