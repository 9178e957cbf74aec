"""Have memory that is freed go back to the system, so that what a server takes follows what it has in hand.

By default glibc learns from the first large block that is freed to keep blocks of that size, up to 32 MiB, and keeps
them for each thread: after a few large requests a server holds a multiple of its budget for ever.
"""

import ctypes

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of malloc.h
LARGE_BYTES = 2**20  # blocks of this size and more are given back as soon as they are freed
ARENAS = 2


def give_back_large_blocks() -> bool:
    """Set that up for this process; whether the C library has such settings, which glibc's does."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, or another system
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)) and bool(mallopt(M_ARENA_MAX, ARENAS))
