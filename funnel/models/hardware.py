"""What this machine's processor computes natively."""

from functools import cache
from pathlib import Path


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
