"""Options that the training commands share."""

from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from funnel.training.settings import Device, Precision, RunOptions, TrainSettings

ON_BAD_LINE: TypeAlias = Annotated[
    str, typer.Option(help="fail: refuse data with bad lines; skip: leave bad lines out.")
]


def run_options(
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory to write.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of this output.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an output or an unfinished run.")
    ] = False,
    keep_checkpoints: Annotated[
        bool, typer.Option("--keep-checkpoints", help="Keep OUTPUT.checkpoints after the end.")
    ] = False,
) -> RunOptions:
    """Where the result goes."""
    return RunOptions(
        output=output, resume=resume, overwrite=overwrite, keep_checkpoints=keep_checkpoints
    )


def train_settings(
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 3.0,
    batch_size: Annotated[int, typer.Option(help="Examples per step.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="Peak rate of AdamW.")] = 5e-5,
    max_tokens: Annotated[int, typer.Option(help="Window; longer pairs are cut.")] = 256,
    lora_rank: Annotated[
        int | None, typer.Option(help="Train low-rank adapters of this rank; full if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seeds data order, new weights and dropout.")] = 13,
    device: Annotated[Device, typer.Option(help="auto takes CUDA if there is any.")] = "auto",
    precision: Annotated[
        Precision, typer.Option(help="auto takes bf16 where the units exist.")
    ] = "auto",
    dev_share: Annotated[float, typer.Option(help="Share of queries held out to measure.")] = 0.1,
    evaluations: Annotated[int, typer.Option(help="Evaluations and checkpoints per run.")] = 4,
    keep: Annotated[
        str, typer.Option(help="best: the best checkpoint on the held-out part; last.")
    ] = "best",
) -> TrainSettings:
    """How to train."""
    if keep not in ("best", "last"):
        raise typer.BadParameter(f"got {keep!r}, expected best or last", param_hint="--keep")
    return TrainSettings(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_tokens=max_tokens,
        lora_rank=lora_rank,
        seed=seed,
        device=device,
        precision=precision,
        dev_share=dev_share,
        evaluations=evaluations,
        keep_best=keep == "best",
    )


def with_options(
    *groups: Callable[..., Any],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of each group; it receives each group's result by its name."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def filled(**given: Any) -> None:
            made = {
                group.__name__: group(
                    **{name: given.pop(name) for name in signature(group).parameters}
                )
                for group in groups
            }
            command(**given, **made)

        filled.__signature__ = _joined(command, groups)  # type: ignore[attr-defined]
        filled.__annotations__ = {
            name: parameter.annotation
            for name, parameter in filled.__signature__.parameters.items()  # type: ignore[attr-defined]
        }
        return filled

    return decorate


def _joined(command: Callable[..., None], groups: tuple[Callable[..., Any], ...]) -> Any:
    names = {group.__name__ for group in groups}
    own = signature(command)
    parameters = [p for p in own.parameters.values() if p.name not in names]
    parameters += [p for group in groups for p in signature(group).parameters.values()]
    as_keywords = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in parameters]
    return own.replace(parameters=as_keywords)


def bad_line_choice(given: str) -> Any:
    """Check ``--on-bad-line``."""
    if given not in ("fail", "skip"):
        raise typer.BadParameter(
            f"got {given!r}, expected fail or skip", param_hint="--on-bad-line"
        )
    return given
