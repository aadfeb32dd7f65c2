"""What a process does with memory that it has freed: keep it for speed, or give it back."""

import ctypes
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors for the next ones: a tenth of a gradient step's time.

    The GNU allocator hands every block above 128 KiB back to the operating system, which clears it page by page for the
    next tensor. And what RLlib sets for reproducible runs makes PyTorch fill every new tensor before it is written.
    """
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _malloc_thresholds(32 * 2**20, 2**28)


def return_freed_memory() -> None:
    """Let this process stay as small as it is over days.

    By itself the GNU allocator raises its thresholds with the largest block that was ever freed, and then the arena of
    each of a dozen threads keeps that much.
    """
    _malloc_thresholds(2**18, 2**18)


def _malloc_thresholds(mmap: int, trim: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, mmap)
        mallopt(_M_TRIM_THRESHOLD, trim)
