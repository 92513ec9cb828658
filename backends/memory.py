"""What the C library does with memory that NumPy has freed."""

import ctypes
import os


def keep_memory() -> None:
    """Tell glibc to keep freed memory for the next array instead of handing it back to the system.

    Fresh memory is a hidden cost of training with NumPy: every large temporary is mapped, faulted in page by
    page and unmapped again, at every step. The process then holds on to its peak memory. Only on Linux with
    glibc; the environment variable TINYSEQ_KEEP_MEMORY=0 switches it off.
    """
    try:
        if os.environ.get("TINYSEQ_KEEP_MEMORY") == "0" or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""):
            return
        mallopt = ctypes.CDLL(None).mallopt
    except (ValueError, OSError, AttributeError):  # another system or C library: nothing to tell it
        return
    mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD: arrays below 32 MiB (the most glibc allows) come from the heap
    mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD: the heap shrinks only when 1 GiB at its end is free
    mallopt(-2, 1 << 26)  # M_TOP_PAD: and grows by 64 MiB at a time
