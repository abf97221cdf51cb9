"""Low-rank adapters for training; merged into plain weights before anything is saved."""

from typing import Any

_TRAINED_WHOLE = ("classifier", "pooler", "score")


def add_lora(network: Any, rank: int, *, seed: int) -> Any:
    """Freeze a transformers network, add LoRA of ``rank`` to its linear layers; return the tuner.

    The head (and pooler) is trained whole: a low-rank update of a head that starts at random
    cannot learn, and adapters that leave it out lose it on saving. Source: Hu et al. 2021,
    arXiv:2106.09685, with alpha = rank so that the update enters with factor one.
    """
    import torch
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    heads = [name for name, _ in network.named_modules() if trained_whole(name)]
    linears = [
        name
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and not trained_whole(name)
    ]
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=linears)
    tuner = LoraModel(network, config, "default")
    for name, parameter in network.named_parameters():
        parameter.requires_grad = "lora_" in name or name.startswith(tuple(heads) or ("\0",))
    return tuner


def merge_lora(tuner: Any) -> None:
    """Fold the update into the weights; the network is plain again, with the same outputs."""
    tuner.merge_and_unload()


def trained_whole(name: str) -> bool:
    """Whether a module or parameter of that name belongs to the head."""
    return any(part in _TRAINED_WHOLE for part in name.split("."))
