"""What a trained model was trained from, as its card says."""

from pathlib import Path
from typing import Any

import yaml

from funnel.errors import ConfigError
from funnel.models.adapters import CARD_FILE

_FENCE = "---"


def trained_from(model: str) -> str:
    """The name of the model that a directory made by ``funnel train`` started from.

    Raises:
        ConfigError: it is no such directory, so that what to compare it with must be said.
    """
    found = _front_matter(Path(model).expanduser() / CARD_FILE).get("base_model")
    if not isinstance(found, str) or not found:
        raise ConfigError(
            f"{model}: no card says what it was trained from (base_model in its {CARD_FILE}); "
            "name what to compare it with: --base MODEL"
        )
    return found


def _front_matter(card: Path) -> dict[str, Any]:
    try:
        opening, head, *_ = card.read_text(encoding="utf-8").split(_FENCE, 2)
        found = yaml.safe_load(head) if not opening.strip() else None
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}
