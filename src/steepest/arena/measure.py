"""Memory, machine and versions, measured as honestly as the system allows."""

import ctypes
import datetime
import gc
import os
import platform
from pathlib import Path
from typing import Any

import torch

__all__ = ["PeakMemory", "environment", "now"]


class PeakMemory:
    """The most memory a run held beyond what was in use when it began.

    On CUDA: ``max_memory_allocated`` less what was allocated at the start. On Linux CPUs: the growth of the process's
    resident set over its size at the start (the kernel's high-water mark, set back for each run, with free heap pages
    returned first); pages are shared with the allocator's caches, so differences of a few megabytes mean nothing.
    Elsewhere: ``None``.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.start: int | None = None
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self.start = torch.cuda.memory_allocated(device)
        elif device.type == "cpu":
            gc.collect(1)  # a full collection takes longer than a small run
            try:
                ctypes.CDLL(None).malloc_trim(0)
                Path("/proc/self/clear_refs").write_text("5")
                self.start = _resident("VmRSS")
            except (OSError, AttributeError):
                self.start = None

    def peak(self) -> int | None:
        """Bytes beyond the start, or ``None`` where the system does not tell."""
        if self.start is None:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.start
        high = _resident("VmHWM")
        return None if high is None else max(0, high - self.start)


def _resident(field: str) -> int | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment(device: torch.device) -> dict[str, Any]:
    """Versions and hardware, flat and printable."""
    import joblib
    import optuna

    import steepest

    facts = {
        "steepest": steepest.__version__,
        "torch": torch.__version__,
        "optuna": optuna.__version__,
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "processor": _processor(),
        "cores": joblib.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    if pages > 0:
        facts["memory_gib"] = round(pages * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return facts
