"""What a scorer loads: a plain cross-encoder, or an adapter that also weighs in its base's vectors.

Imports torch: import lazily.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from funnel.errors import ConfigError, ModelError
from funnel.models.adapters import (
    MAXSIM_WEIGHTS,
    Adapter,
    Combination,
    check_base,
    is_adapter,
    read_adapter,
)
from funnel.models.backends import (
    ENCODER_BACKENDS,
    Choice,
    check_backend,
    encoder_precision,
    open_cross_network,
)
from funnel.models.batching import token_batches
from funnel.models.bert import bert_shape, read_config, read_weights
from funnel.models.calibration import calibration_texts
from funnel.models.cross_networks import cross_bert, pair_tokenizer, read_cross_bert, window
from funnel.models.encoder_networks import PlainEncoder, open_network
from funnel.models.hardware import beside, cpu_has_fast_bf16
from funnel.models.low_rank import merged_encoder, merged_state_dict
from funnel.models.maxsim import maxsim
from funnel.models.pair_vectors import PairVectors, Rows, cosine_between
from funnel.models.source import (
    EMBEDDED,
    EMBEDDED_ENCODER,
    SHIPPED,
    ModelSource,
    check_scorer_name,
    locate,
    sha256,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from funnel.models.base import TextPair
    from funnel.models.cross_networks import CrossNetwork
    from funnel.models.encoder import EncoderNetwork, Precision
    from funnel.models.tokens import TextTokenizer, Tokens

    FloatArray = NDArray[np.float32]

_BUDGET = 512  # of the base's own batches
_FEW = 2  # pairs whose texts are read beside the cross-encoder; more fill both cores anyway
# Of pairs of questions with a cosine below it, the encoders rule most out ("benchmarks/README.md").
_LIKELY = 0.75


@dataclass(frozen=True, slots=True)
class PairItem:
    """A tokenised pair. ``readings`` are what the network reads: one order, both, or none.

    ``cost`` is in tokens. ``cosine`` is that of the base's vectors where the caller knew it,
    ``needed`` the score below which the caller does not care how low it is.
    """

    pair: "TextPair"
    readings: "tuple[Tokens, ...]"
    cost: int
    truncated: bool
    cosine: float | None = None
    needed: float = -math.inf


class PairParts(NamedTuple):
    """What a score is made of, for n pairs; None for what has no weight.

    ``cross`` are logits, shape (n,) or (2, n) for both orders; the others similarities, (n,).
    """

    cross: "FloatArray | None"
    cosine: "FloatArray | None"
    maxsim: "FloatArray | None"
    tuned: "FloatArray | None"


class PairModel(Protocol):
    """Pairs to tokenised items to logits."""

    revision: str
    choice: Choice
    budget: int
    symmetric: bool
    cosine_of: str
    has_ceiling: bool

    def prepare(
        self,
        pairs: "Sequence[TextPair]",
        cosines: Sequence[float | None] | None = None,
        needed: Sequence[float] | None = None,
    ) -> list[PairItem]:
        """Tokenise, each distinct text once.

        ``cosines`` of the pairs by the encoder whose revision is ``cosine_of``, as far as they are
        known, spare reading the texts for them; a model that weighs in no cosine has an empty
        ``cosine_of``. ``needed`` are scores below which a model that ``has_ceiling`` may give
        minus infinity.
        """

    def run(self, items: Sequence[PairItem]) -> "Sequence[np.float32]":
        """One logit for each item; minus infinity for what surely has less than it needs."""


def open_pair_model(
    name: str, backend: str, max_tokens: int | None, *, gated: bool = True
) -> PairModel:
    """Load a scorer's model by name: ``embedded:…``, a path or a hub id.

    ``gated``: see :func:`funnel.models.backends.open_cross_network`.

    Raises:
        ModelError: it is missing, damaged, untrained, or no ranker.
    """
    folder = adapter_folder(name)
    if folder is not None:
        return _open_adapter(name, folder, backend, max_tokens, gated=gated)
    source = locate(name)
    tokenizer = pair_tokenizer(source.folder, max_tokens)
    model = read_cross_bert(source)
    network, choice = open_cross_network(source, model, backend, tokenizer, gated=gated)
    return PlainPairs(source.revision, tokenizer, network, choice)


def adapter_folder(name: str) -> Path | None:
    """The folder of an adapter by its name; None if the name stands for another kind of model.

    Raises:
        UnknownModel: no embedded cross-encoder has that name.
    """
    if name.startswith(EMBEDDED):
        check_scorer_name(name)
        return SHIPPED / name.removeprefix(EMBEDDED)
    folder = Path(name).expanduser()
    return folder if is_adapter(folder) else None


def _open_adapter(
    name: str, folder: Path, backend: str, max_tokens: int | None, *, gated: bool
) -> PairModel:
    adapter = read_adapter(folder)
    base = adapter_base(adapter)
    shape = bert_shape(read_config(base.folder))
    if shape is None:
        raise ModelError(f"model {name!r}: its base {base.name!r} is no plain BERT")
    tokenizer = pair_tokenizer(base.folder, max_tokens or adapter.max_tokens)
    network, choice = None, Choice("none")
    if not adapter.combine.orders:
        _check_torch(name, backend)
    else:
        weights = merged_state_dict(adapter, read_weights(base.folder))
        source = ModelSource(name, base.folder, adapter.sha256[:16])
        cross = cross_bert(name, weights, shape)
        network, choice = open_cross_network(source, cross, backend, tokenizer, gated=gated)
    asked = None if max_tokens == window(base.folder, None) else max_tokens
    combined = partial(CombinedPairs, adapter, base, tokenizer, network, choice, max_tokens=asked)
    if not adapter.combine.encoders:
        return combined(precision="fp32")
    # The adapter's window is the pair's; encoders have the base's where none is asked for.
    parts = (adapter.revision, base.revision, choice.backend, asked)
    source = ModelSource(name, base.folder, ":".join(map(str, parts)))
    return _in_precision(source, combined, backend, tokenizer.max_tokens, gated=gated)


def _in_precision(
    source: ModelSource,
    combined: "Callable[..., CombinedPairs]",
    backend: str,
    max_tokens: int,
    *,
    gated: bool,
) -> "CombinedPairs":
    """With encoders in bfloat16 where that is faster, if the score then ranks as in float32."""
    made: dict[Precision, CombinedPairs] = {}

    def of(precision: "Precision") -> CombinedPairs:
        return made.get(precision) or made.setdefault(precision, combined(precision=precision))

    def scores(precision: "Precision") -> "FloatArray":
        model = of(precision)
        return np.asarray(model.run(model.prepare(calibration_texts())), np.float32)

    precision, rows = encoder_precision(source, backend, max_tokens, scores, gated=gated)
    model = of(precision)
    if model.choice.backend == "none":
        model.choice = Choice(f"torch-{precision}", rows)
    return model


def _check_torch(name: str, backend: str) -> None:
    check_backend(backend)
    if backend not in ENCODER_BACKENDS:
        raise ConfigError(
            f"model {name!r}: got backend {backend!r}, expected one of "
            f"{', '.join(ENCODER_BACKENDS)}: it scores by its base's vectors, which torch computes"
        )


def adapter_base(adapter: Adapter) -> ModelSource:
    """The model an adapter is a difference from, its weights verified.

    Raises:
        ModelError: it is missing, or not the one the adapter was made for.
    """
    embedded = EMBEDDED_ENCODER.removeprefix(EMBEDDED)
    is_embedded = adapter.base.name in (embedded, EMBEDDED_ENCODER)
    try:
        source = locate(EMBEDDED_ENCODER if is_embedded else adapter.base.name)
    except ModelError as error:
        raise ModelError(f"adapter {adapter.name!r} needs its base: {error}") from error
    weights = source.folder / "model.safetensors"
    check_base(adapter, source.name, sha256(weights) if weights.is_file() else "")
    return source


class PlainPairs:
    """A cross-encoder and nothing else."""

    def __init__(
        self, revision: str, tokenizer: "TextTokenizer", network: "CrossNetwork", choice: Choice
    ) -> None:
        self.revision = revision
        self.choice = choice
        self.budget = network.budget
        self.symmetric = False
        self.cosine_of = ""
        self.has_ceiling = False
        self._tokenizer = tokenizer
        self._network = network

    def prepare(
        self,
        pairs: "Sequence[TextPair]",
        cosines: Sequence[float | None] | None = None,  # noqa: ARG002 - it weighs in none
        needed: Sequence[float] | None = None,  # noqa: ARG002 - nothing bounds its score
    ) -> list[PairItem]:
        """Tokenise, each distinct text once."""
        ids = _distinct_ids(self._tokenizer, pairs)
        readings = [self._tokenizer.pair(ids[a], ids[b]) for a, b in pairs]
        return [
            PairItem(pair, (reading,), len(reading), reading.truncated)
            for pair, reading in zip(pairs, readings, strict=True)
        ]

    def run(self, items: Sequence[PairItem]) -> "Sequence[np.float32]":
        """One logit for each item."""
        return list(self._network.logits([item.readings[0] for item in items]))


class CombinedPairs:
    """An adapter's cross-encoder, in one or both orders, beside what encoders say of a pair.

    ``precision`` is the encoders' (bfloat16 where it is native by default), ``max_tokens`` their
    window (their own by default).
    """

    def __init__(
        self,
        adapter: Adapter,
        base: ModelSource,
        tokenizer: "TextTokenizer",
        network: "CrossNetwork | None",
        choice: Choice,
        *,
        precision: "Precision | None" = None,
        max_tokens: int | None = None,
    ) -> None:
        combine = adapter.combine
        self.revision = adapter.revision
        self.choice = choice
        # Encoders read on the CPU's cores, of which a batch takes one.
        self.budget = network.budget if network and not combine.encoders else _BUDGET
        self.symmetric = combine.orders != 1 and not combine.maxsim
        given = combine.cosine and not combine.maxsim and max_tokens is None
        self.cosine_of = base.revision if given else ""
        self.has_ceiling = combine.has_ceiling
        self._combine: Combination = combine
        self._token_weights = _token_weights(adapter, base)
        self._tokenizer = tokenizer
        self._network = network
        precision = precision or ("bf16" if cpu_has_fast_bf16() else "fp32")
        self._base = self._tuned = None
        if combine.cosine or combine.maxsim:
            self._base = PairVectors(open_network(base, precision, max_tokens))
        if combine.tuned:
            tuned = _tuned_encoder(adapter, base, precision, max_tokens)
            self._tuned = PairVectors(tuned, pooled_only=True)

    def prepare(
        self,
        pairs: "Sequence[TextPair]",
        cosines: Sequence[float | None] | None = None,
        needed: Sequence[float] | None = None,
    ) -> list[PairItem]:
        """Tokenise, each distinct text once; what encoders have to read counts as cost too."""
        ids = _distinct_ids(self._tokenizer, pairs)
        known = list(cosines) if cosines is not None and self.cosine_of else [None] * len(pairs)
        readers = self._readers(pairs, known)
        floors = [-math.inf] * len(pairs) if needed is None else needed
        room, items = self._room, []
        for pair, cosine, unread, floor in zip(pairs, known, readers, floors, strict=True):
            first, second = ids[pair[0]], ids[pair[1]]
            orders = ((first, second), (second, first))[: self._combine.orders]
            readings = tuple(self._tokenizer.pair(*order) for order in orders)
            alone = min(len(second) + 2, self._tokenizer.max_tokens)
            cost = sum(map(len, readings)) + unread * alone
            truncated = any(reading.truncated for reading in readings)
            truncated = truncated or max(len(first), len(second)) > room
            items.append(PairItem(pair, readings, max(1, cost), truncated, cosine, floor))
        return items

    def run(self, items: Sequence[PairItem]) -> "Sequence[np.float32]":
        """One logit for each item; minus infinity for what surely has less than it needs."""
        cosine, similarity = self._similarities(items)
        combined = partial(self._combine.logits, cosine=cosine, maxsim=similarity)
        pairs = [item.pair for item in items]
        if not self._encoders_first(items, cosine):
            tuned = self._tuned_cosines(pairs)
            return list(combined(self._cross(items), tuned=tuned()))
        known = None if self._tuned is None else self._tuned.cosines(pairs)
        cross = self._sure(len(items))
        possible = combined(cross, tuned=known) >= np.array([item.needed for item in items])
        read = self._cross([item for item, open_ in zip(items, possible, strict=True) if open_])
        if read is not None:
            cross[..., possible] = read
        return list(np.where(possible, combined(cross, tuned=known), np.float32(-np.inf)))

    def parts(self, items: Sequence[PairItem]) -> PairParts:
        """What each part of the score says, before they are weighed."""
        cosine, similarity = self._similarities(items)
        tuned = self._tuned_cosines([item.pair for item in items])
        return PairParts(self._cross(items), cosine, similarity, tuned())

    def _sure(self, count: int) -> "FloatArray":
        """What a cross-encoder would say that is as sure as can be."""
        orders = self._combine.orders
        return np.full(count if orders == 1 else (orders, count), np.inf, np.float32)

    def _encoders_first(self, items: Sequence[PairItem], cosine: "FloatArray | None") -> bool:
        """Whether to see what encoders rule out before the cross-encoder reads the rest.

        Not for a single likely pair whose texts are still to be read: both then work at once.
        """
        if not self.has_ceiling or all(item.needed == -math.inf for item in items):
            return False
        unlikely = cosine is not None and bool((cosine < _LIKELY).any())
        return unlikely or not self._at_once([item.pair for item in items])

    def _tuned_cosines(self, pairs: "Sequence[TextPair]") -> "Callable[[], FloatArray | None]":
        """What the tuned encoder says, read in a thread beside the cross-encoder if that is quick.

        A cached question is verified alone: one core would wait for the other.
        """
        encoder = self._tuned
        if encoder is None:
            return lambda: None
        if self._at_once(pairs):
            return beside(lambda: encoder.cosines(pairs))
        cosines = encoder.cosines(pairs)
        return lambda: cosines

    def _at_once(self, pairs: "Sequence[TextPair]") -> bool:
        """Whether the tuned encoder has a little to read, beside the cross-encoder."""
        if self._tuned is None or self._network is None or len(pairs) > _FEW:
            return False
        return any(self._tuned.unread([text for pair in pairs for text in pair]))

    def _readers(self, pairs: "Sequence[TextPair]", cosines: Sequence[float | None]) -> list[int]:
        """How many encoders have to read the second text of each pair."""
        documents = [document for _, document in pairs]
        unread = np.zeros(len(pairs), np.int64)
        if self._base is not None:
            missing = np.array([cosine is None for cosine in cosines], bool)
            unread += missing & np.array(self._base.unread(documents), bool)
        if self._tuned is not None:
            unread += np.array(self._tuned.unread(documents), bool)
        return [int(count) for count in unread]

    @property
    def _room(self) -> float:
        """Tokens of a text that every encoder reads whole."""
        read = [each.network.max_tokens for each in (self._base, self._tuned) if each is not None]
        return min(read, default=math.inf) - self._tokenizer.single_overhead

    def _cross(self, items: Sequence[PairItem]) -> "FloatArray | None":
        if self._network is None:
            return None
        orders = self._combine.orders
        readings = [item.readings[order] for order in range(orders) for item in items]
        logits = np.empty(len(readings), np.float32)
        for batch in token_batches([len(reading) for reading in readings], self._network.budget):
            logits[batch] = self._network.logits([readings[i] for i in batch])
        return logits if orders == 1 else logits.reshape(orders, len(items))

    def _similarities(
        self, items: Sequence[PairItem]
    ) -> "tuple[FloatArray | None, FloatArray | None]":
        """Cosine and MaxSim of the base's vectors, shape (n,), as far as they are weighed in."""
        if self._base is None:
            return None, None
        rows = self._base.of([text for item in items if item.cosine is None for text in item.pair])
        given = [cosine_between(i.pair, rows) if i.cosine is None else i.cosine for i in items]
        maxsims = self._maxsims([i.pair for i in items], rows) if self._combine.maxsim else None
        return np.array(given, np.float32), maxsims

    def _maxsims(self, pairs: "Sequence[TextPair]", rows: Rows) -> "FloatArray":
        values = np.empty(len(pairs), np.float32)
        by_first: dict[str, list[int]] = {}
        for position, (first, _) in enumerate(pairs):
            by_first.setdefault(first, []).append(position)
        for first, positions in by_first.items():
            documents = [rows[pairs[i][1]].tokens for i in positions]
            values[positions] = maxsim(rows[first].tokens, documents, self._weights_of(first))
        return values

    def _weights_of(self, text: str) -> "FloatArray | None":
        """Of the tokens that the base reads of a text; None if all count the same."""
        if self._token_weights is None or self._base is None:
            return None
        (tokens,) = self._base.network.tokenize([text])
        weights: FloatArray = self._token_weights[tokens.ids]
        return weights if weights.any() else None


def _tuned_encoder(
    adapter: Adapter, base: ModelSource, precision: "Precision", max_tokens: int | None
) -> "EncoderNetwork":
    weights = merged_encoder(adapter, read_weights(base.folder))
    # What is being trained has no file, and so no hash of one; kept vectors must not be mixed up.
    source = ModelSource(f"{adapter.name} (tuned encoder)", base.folder, adapter.encoder_revision)
    return PlainEncoder(source, precision, weights, max_tokens)


def _token_weights(adapter: Adapter, base: ModelSource) -> "FloatArray | None":
    if MAXSIM_WEIGHTS not in adapter.fixed:
        return None
    weights: FloatArray = adapter.fixed[MAXSIM_WEIGHTS].float().numpy()
    expected = (read_config(base.folder).get("vocab_size"),)
    if weights.shape != expected or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ModelError(
            f"adapter {adapter.name!r}: {MAXSIM_WEIGHTS}: got shape {weights.shape}, expected "
            f"{expected}, all finite and none negative; install or train the adapter again"
        )
    return weights


def _distinct_ids(tokenizer: "TextTokenizer", pairs: "Sequence[TextPair]") -> dict[str, list[int]]:
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    return dict(zip(texts, tokenizer.ids(texts), strict=True))
