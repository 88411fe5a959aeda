"""Keeping memory between blocks of a grid.

Each operation on a block allocates megabytes and frees them soon after. The C library hands such memory back to the
system at once and asks for it again in the next operation, page by page: a third of the time that the arithmetic takes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of glibc's settings (malloc.h): free bytes at the end of the heap, and size of a block of its own. [B]"""

USUAL = {MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 64 << 20}
"""What glibc comes to by itself in a process that frees large blocks (DEFAULT_MMAP_THRESHOLD_MAX, and twice it)."""

KEPT = {MMAP_THRESHOLD: 32 << 20, TRIM_THRESHOLD: 512 << 20}


@contextmanager
def kept_heap() -> Iterator[None]:
    """Keep what is freed for the next block; give it back at the end. Where there is no glibc, nothing happens."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not (hasattr(library, "mallopt") and hasattr(library, "malloc_trim")):
        yield
        return
    for setting, nbytes in KEPT.items():
        library.mallopt(setting, nbytes)
    try:
        yield
    finally:
        for setting, nbytes in USUAL.items():
            library.mallopt(setting, nbytes)
        library.malloc_trim(0)
