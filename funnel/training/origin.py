"""What a model is trained from: its place, its revision, and what a card says of it."""

from pathlib import Path
from typing import Any

import yaml

from funnel.errors import ConfigError
from funnel.models.adapters import CARD_FILE, Adapter, is_adapter, read_adapter
from funnel.models.source import EMBEDDED, EMBEDDED_ENCODER, check_scorer_name, locate
from funnel.training.output import MODEL_FILES, holds_model

_FENCE = "---"


def lasting_name(base: str) -> str:
    """A path that still holds from another working directory; other names as they are."""
    path = Path(base).expanduser()
    return str(path.resolve()) if path.is_dir() else base


def check_apart(base: str, output: Path) -> None:
    """Refuse an output that would replace ``base``, or the model that an adapter ``base`` changes.

    Nor may it lie inside: a model is recognised by all the weights in its folder.

    Raises:
        ConfigError: says how the two touch.
        ModelError: ``base`` is a damaged adapter, or its own base is missing.
    """
    for name in _sources(base):
        folder = Path(lasting_name(name))
        how = _touch(output.resolve(), folder) if folder.is_dir() else None
        if how:
            raise ConfigError(
                f"{output}: the output {how} the base it is trained from; name another output"
            )


def base_revision(base: str) -> str:
    """What identifies the weights of ``base``, and how an adapter's score is combined.

    Empty for an embedded name that is not known: the loaders say which ones they know.

    Raises:
        ModelError: it is missing or damaged.
    """
    if not _known(base):
        return ""
    adapter = _adapter(base)
    return adapter.revision if adapter else locate(base).revision


def network_folder(base: str) -> Path | None:
    """The folder with the weights that training starts from; an adapter's are its own base's.

    None for an embedded name that is not known, as of :func:`base_revision`.

    Raises:
        ModelError: it is missing or damaged.
    """
    return locate(_sources(base)[-1]).folder if _known(base) else None


def trained_from(model: str) -> str:
    """The name of the model that a directory made by ``funnel train`` started from.

    Raises:
        ConfigError: there is no model of that name here, or it is one of another origin, so that
            what to compare it with must be said.
        ModelError: no embedded model has that name.
    """
    folder = Path(model).expanduser()
    if model.startswith(EMBEDDED):
        if model != EMBEDDED_ENCODER:
            check_scorer_name(model)
    elif not folder.is_dir():
        raise ConfigError(
            f"{model}: got no such folder, expected one that `funnel train` wrote; a model of the "
            "hub needs to be told what it is compared with: --base MODEL"
        )
    elif not holds_model(folder):
        raise ConfigError(
            f"{model}: got a folder without a model ({', '.join(MODEL_FILES)}: none is there), "
            "expected one that `funnel train` wrote"
        )
    found = _front_matter(folder / CARD_FILE).get("base_model")
    if not isinstance(found, str) or not found:
        raise ConfigError(
            f"{model}: no card says what it was trained from (base_model in its {CARD_FILE}); "
            "name what to compare it with: --base MODEL"
        )
    return found


def _sources(base: str) -> list[str]:
    """``base``, and what it is a difference from if it is an adapter."""
    from funnel.models.pair_models import adapter_base

    adapter = _adapter(base) if _known(base) else None
    return [base, adapter_base(adapter).name] if adapter else [base]


def _touch(output: Path, base: Path) -> str | None:
    if output == base:
        return "is"
    if base.is_relative_to(output):
        return "holds"
    return "lies in" if output.is_relative_to(base) else None


def _known(base: str) -> bool:
    from funnel.models.source import SHIPPED

    if not base.startswith(EMBEDDED) or base == EMBEDDED_ENCODER:
        return True
    return is_adapter(SHIPPED / base.removeprefix(EMBEDDED))


def _adapter(base: str) -> Adapter | None:
    from funnel.models.pair_models import adapter_folder

    folder = None if base == EMBEDDED_ENCODER else adapter_folder(base)
    return read_adapter(folder) if folder else None


def _front_matter(card: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(_head(card.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _head(card: str) -> str:
    """What is between the first two fences; a folder's name may hold dashes, too."""
    opening, *lines = card.lstrip().splitlines() or [""]
    if opening != _FENCE or _FENCE not in lines:
        return ""
    return "\n".join(lines[: lines.index(_FENCE)])
