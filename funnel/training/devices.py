"""Which device and number format a training run uses, decided once and written down."""

from dataclasses import dataclass

from funnel.errors import ConfigError
from funnel.training.settings import Device, Precision


@dataclass(frozen=True, slots=True)
class Hardware:
    """``device`` is ``cpu`` or ``cuda``; ``bf16`` says whether autocast runs in bfloat16."""

    device: str
    bf16: bool

    @property
    def label(self) -> str:
        """For logs and model cards."""
        return f"{self.device}, {'bf16 autocast' if self.bf16 else 'fp32'}"


def resolve_hardware(device: Device, precision: Precision) -> Hardware:
    """Turn the wishes into what this machine has.

    bf16 autocast is chosen by itself only where the units exist (AVX512-BF16, AMX, CUDA from
    Ampere on): elsewhere it is emulated and slow.

    Raises:
        ConfigError: CUDA or bf16 was asked for and is not there.
    """
    chosen = _device(device)
    fast = _has_bf16(chosen)
    if precision == "bf16" and not fast:
        raise ConfigError(
            f"precision bf16 was asked for, but this {chosen} has no bf16 units "
            "(AVX512-BF16, AMX, or CUDA from Ampere on); use --precision fp32"
        )
    return Hardware(chosen, bf16=fast and precision != "fp32")


def _device(wish: Device) -> str:
    import torch

    if wish == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if wish == "cuda":
        raise ConfigError(
            f"device cuda was asked for, but torch {torch.__version__} sees no CUDA device; "
            "use --device cpu, or install a CUDA build of torch and its driver"
        )
    return "cpu"


def _has_bf16(device: str) -> bool:
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in names)
