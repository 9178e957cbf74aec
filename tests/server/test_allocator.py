"""Memory that is freed goes back to the system."""

import ctypes
import platform
import sys
from types import SimpleNamespace

import processes
import pytest
from headwise_server import allocator
from headwise_server.allocator import give_back_large_blocks

GLIBC = platform.libc_ver()[0] == "glibc"

# In threads, as the server has it: blocks of growing size, each freed, then one that a thread keeps a little of.
FREEING = """
import ctypes, sys, threading
from pathlib import Path
from headwise_server.allocator import give_back_large_blocks

MIB = 2**20

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "set":
    assert give_back_large_blocks()
before, kept = resident_bytes(), []

def work():
    for size in (2, 8, 24):
        blocks = [bytearray(size * MIB) for _ in range(4)]
        kept.append(bytearray(1000))
        del blocks

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print((resident_bytes() - before) // MIB)
"""


@pytest.mark.skipif(not GLIBC, reason="needs glibc")
def test_freed_memory_goes_back() -> None:
    """After 100 MiB in each of four threads nothing is left, where glibc would keep some."""
    command = [sys.executable, "-c", FREEING]
    assert int(processes.run([*command, "set"], check=True).stdout) < 8


@pytest.mark.skipif(not GLIBC, reason="needs glibc")
def test_settings_are_taken() -> None:
    """By this process's C library."""
    assert (
        processes.run(
            [sys.executable, "-c", "from headwise_server.allocator import *; print(give_back_large_blocks())"],
            check=True,
        ).stdout
        == "True\n"
    )


def refused(*arguments: int) -> int:
    """`mallopt` where it takes nothing."""
    return 0


@pytest.mark.parametrize(
    "library", [SimpleNamespace(), SimpleNamespace(mallopt=refused)], ids=["no mallopt", "mallopt refuses"]
)
def test_library_that_has_no_such_settings_is_said(monkeypatch: pytest.MonkeyPatch, library: object) -> None:
    """Another C library is no error, and not taken for glibc."""
    monkeypatch.setattr(allocator, "ctypes", SimpleNamespace(CDLL=lambda name: library))
    assert give_back_large_blocks() is False


def test_system_without_a_c_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows, which opens none without a name."""

    def fails(name: None) -> ctypes.CDLL:
        raise TypeError

    monkeypatch.setattr(allocator, "ctypes", SimpleNamespace(CDLL=fails))
    assert give_back_large_blocks() is False
