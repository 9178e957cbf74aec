"""A process that torchrun started ends when torchrun is gone.

Torchrun stops its processes itself on a signal, and when one of them fails. Killed outright, by SIGKILL or for want of
memory, it leaves them behind: they would train on, or wait for each other, for hours. So each looks once a second
whether the process that started it still is its parent, from before the slow imports on. A script that stands between
torchrun and the command has to hand over by `exec`.
"""

import os
import signal
import sys
import threading
import time
from contextlib import suppress

SECONDS_BETWEEN_LOOKS = 1.0
GRACE_SECONDS = 10.0  # for a clean stop; a process that waits for another in a collective cannot make one
SET_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"


def end_with_launcher() -> None:
    """Have this process end as by SIGTERM once its torchrun is gone, and by SIGKILL if that does not end it."""
    if SET_BY_TORCHRUN in os.environ:
        threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True).start()


def _end_after(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    with suppress(OSError):  # what torchrun had opened for it may be gone as well
        print("exporter: torchrun, which started this process, is gone: stopping", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
