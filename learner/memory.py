"""How the C library's allocator keeps memory, for processes that make large arrays again and again."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # mallopt(3)
_KEPT_BYTES = 2**29
_TOP_PAD_BYTES = 2**24


def keep_freed_memory() -> None:
    """Have freed arrays' memory used again instead of handed back to the kernel, which clears it page by page anew.

    A fifth of the learning thread's time went into that. Where the C library is not glibc, nothing is changed.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return
    for parameter, value in (
        (_MMAP_THRESHOLD, _KEPT_BYTES),
        (_TRIM_THRESHOLD, _KEPT_BYTES),
        (_TOP_PAD, _TOP_PAD_BYTES),
    ):
        library.mallopt(parameter, value)


def release_freed_memory() -> None:
    """Hand all of it back for once: after something large that comes rarely, between whose remains others have settled.

    Nothing else would fit in there the next time, and the process would grow by as much again.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(ctypes.c_size_t(_TOP_PAD_BYTES))
