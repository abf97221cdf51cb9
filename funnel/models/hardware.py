"""What this machine has: cores, threads on them, and what its processor computes natively."""

import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")


@cache
def cpu_flags() -> frozenset[str]:
    """The processor's feature flags as Linux names them; empty where they cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    return frozenset(flags.partition(":")[2].split())


def cpu_has_fast_bf16() -> bool:
    """Whether bfloat16 products run in hardware (AMX or AVX512-BF16)."""
    return bool(cpu_flags() & {"amx_bf16", "avx512_bf16"})


def cpu_has_fast_int8() -> bool:
    """Whether int8 products run in hardware (AMX or AVX512-VNNI)."""
    return bool(cpu_flags() & {"amx_int8", "avx512_vnni", "avx_vnni"})


def available_cores() -> int:
    """Cores that this process may use: its affinity, cut by a container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil(min(cores or 1, _cgroup_cores())))


def _cgroup_cores() -> float:
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:  # noqa: PTH123
            quota, period = file.read().split()
        return float(quota) / float(period)
    except (OSError, ValueError):
        return math.inf


def set_torch_threads(threads: int) -> None:
    """Set torch's threads for the calling thread only.

    torch keeps one number per thread and one from which new threads start; the latter is put back
    (from a thread that then ends), so that a program's own torch work keeps its cores.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    helper = threading.Thread(target=torch.set_num_threads, args=(before,))
    helper.start()
    helper.join()


def beside(work: Callable[[], Result]) -> Callable[[], Result]:
    """Begin work in a thread of its own, with one torch thread.

    Returns:
        What waits for it and gives its result, or raises what it raised.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            set_torch_threads(1)
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="funnel-beside", daemon=True).start()
    return future.result
