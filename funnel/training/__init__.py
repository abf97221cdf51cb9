"""Train, distil, mine and judge the models of a funnel; ``funnel train`` is its command line.

Names are imported on first use: nothing heavy is loaded before it is called.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from funnel.training.bi_encoder import (
        Distillation,
        from_pairs,
        from_triples,
        train_bi_encoder,
    )
    from funnel.training.cross_encoder import train_cross_encoder
    from funnel.training.duplicate import train_duplicate
    from funnel.training.mining import Mined, MiningSettings, mine
    from funnel.training.pools import Pool, make_pool, read_pool
    from funnel.training.protocol import Comparison, Judgement, compare, judge
    from funnel.training.reading import read_rows
    from funnel.training.records import Case, LabelledPair, Triple
    from funnel.training.report import TrainReport
    from funnel.training.settings import RunOptions, TrainSettings

__all__ = [
    "Case",
    "Comparison",
    "Distillation",
    "Judgement",
    "LabelledPair",
    "Mined",
    "MiningSettings",
    "Pool",
    "RunOptions",
    "TrainReport",
    "TrainSettings",
    "Triple",
    "compare",
    "from_pairs",
    "from_triples",
    "judge",
    "make_pool",
    "mine",
    "read_pool",
    "read_rows",
    "train_bi_encoder",
    "train_cross_encoder",
    "train_duplicate",
]

_MODULES = {
    "bi_encoder": ("Distillation", "from_pairs", "from_triples", "train_bi_encoder"),
    "cross_encoder": ("train_cross_encoder",),
    "duplicate": ("train_duplicate",),
    "mining": ("Mined", "MiningSettings", "mine"),
    "pools": ("Pool", "make_pool", "read_pool"),
    "protocol": ("Comparison", "Judgement", "compare", "judge"),
    "reading": ("read_rows",),
    "records": ("Case", "LabelledPair", "Triple"),
    "report": ("TrainReport",),
    "settings": ("RunOptions", "TrainSettings"),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import on first use."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
