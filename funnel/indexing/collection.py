"""What a collection says of itself, and how its points are laid out.

The state lives in the collection's own metadata, so that it moves, and is deleted, with it.
"""

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from funnel.errors import ConfigError
from funnel.indexing.filters import MAX_FIELDS
from funnel.indexing.qdrant import BM25, DENSE, TOKENS, QdrantSettings
from funnel.indexing.spool import Prepared, Spool
from funnel.indexing.terms import TERMS_VERSION, Bm25Settings, SparseTerms
from funnel.models.base import Encoder
from funnel.types import Document

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from qdrant_client import models

    FloatArray = NDArray[np.float32]

DOCUMENT_KEYS = ["id", "title", "text", "metadata"]
IDENTITY_KEYS = ["hash", "text_hash", "length"]
FORMAT = 1
METADATA_KEY = "funnel"
_NAMESPACE = uuid.UUID("6f0d4a3e-54c2-5d86-9a2b-1f7b8f9f2f11")


@dataclass(frozen=True, slots=True)
class CollectionState:
    """Identity and statistics of a collection.

    ``average_length`` is the one that the stored weights were computed with; the true one is
    ``total_length / documents``. ``epoch`` grows with every write. ``writing`` stays set while a
    write runs, so a killed one shows, and ``weighing`` while stored weights are computed anew;
    ``building`` marks a rebuild that is not live yet. ``terms`` is how texts were split. Where no
    vectors of an embedder are stored, ``encoder`` and ``revision`` are empty.
    """

    encoder: str
    revision: str
    dim: int
    bm25: Mapping[str, Any]
    token_vectors: bool
    average_length: float
    documents: int = 0
    total_length: int = 0
    epoch: int = 0
    fields: Mapping[str, Sequence[str]] = field(default_factory=dict)
    writing: bool = False
    weighing: bool = False
    building: bool = False
    format: int = FORMAT
    terms: int = TERMS_VERSION
    dense_vectors: bool = True

    @property
    def embeds(self) -> bool:
        """Whether documents are embedded to be stored."""
        return self.dense_vectors or self.token_vectors

    @property
    def true_average(self) -> float:
        """Mean length of what is stored, in terms."""
        return max(1.0, self.total_length / self.documents) if self.documents else 1.0

    @property
    def drift(self) -> float:
        """How far the weights' average is from the true one, as a share of it."""
        return abs(self.average_length / self.true_average - 1)

    def metadata(self) -> dict[str, Any]:
        """As stored with the collection."""
        return {METADATA_KEY: asdict(self)}

    def written(self, **changes: Any) -> "CollectionState":
        """The state after a write: the changes and a new epoch."""
        return replace(self, epoch=next_epoch(self.epoch), **changes)

    def with_fields(self, fields: Mapping[str, Iterable[str]]) -> "CollectionState":
        """With the metadata fields of further documents."""
        merged = {name: set(kinds) for name, kinds in self.fields.items()}
        for name, kinds in fields.items():
            if name in merged or len(merged) < MAX_FIELDS:
                merged.setdefault(name, set()).update(kinds)
        return replace(self, fields={name: sorted(kinds) for name, kinds in merged.items()})


def new_state(
    encoder: Encoder, bm25: Bm25Settings, settings: QdrantSettings, spool: Spool, *, building: bool
) -> CollectionState:
    """The state of a collection about to be made for a corpus."""
    made_by = (encoder.name, encoder.revision, encoder.dim) if settings.embeds else ("", "", 0)
    return CollectionState(
        *made_by,
        bm25=bm25.model_dump(mode="json"),
        dense_vectors=settings.dense_vectors,
        token_vectors=settings.token_vectors,
        average_length=spool.average_length,
        building=building,
        terms=TERMS_VERSION,
    )


def state_from(metadata: Mapping[str, Any] | None, name: str) -> CollectionState:
    """The state that a collection carries.

    Raises:
        ConfigError: the collection was not made by this library, or by a newer one.
    """
    stored = (metadata or {}).get(METADATA_KEY)
    if not isinstance(stored, Mapping) or stored.get("format") != FORMAT:
        found = stored.get("format") if isinstance(stored, Mapping) else "none"
        raise ConfigError(
            f"collection {name!r}: got format {found}, expected {FORMAT}; it was not made by this "
            "version of funnel: choose another 'collection', or index with --rebuild"
        )
    known = CollectionState.__dataclass_fields__
    state = CollectionState(**{key: value for key, value in stored.items() if key in known})
    # A version that did not say it may have been killed while it computed weights.
    return state if "weighing" in stored else replace(state, weighing=state.writing)


def check_identity(
    state: CollectionState,
    name: str,
    encoder: Encoder,
    bm25: Bm25Settings,
    settings: QdrantSettings,
) -> None:
    """Refuse a collection that other models or settings made; a model may have moved.

    Raises:
        ConfigError: names what made the collection and what the settings ask for.
    """
    mend = "set it back, choose another 'collection', or index again with --rebuild"
    if settings.dense_vectors and not state.dense_vectors:
        raise ConfigError(
            f"collection {name!r} holds no dense vectors, but qdrant.dense_vectors is on; {mend}"
        )
    if state.embeds and state.revision != encoder.revision:
        raise ConfigError(
            f"collection {name!r} was made with the embedder {state.encoder} (revision "
            f"{state.revision:.12}, {state.dim} dimensions), but the settings name {encoder.name} "
            f"(revision {encoder.revision:.12}); {mend}"
        )
    stored = Bm25Settings.model_validate(state.bm25)
    if stored != bm25:
        raise ConfigError(
            f"collection {name!r} was made with bm25 settings {_differences(stored, bm25)}; {mend}"
        )
    if state.terms != TERMS_VERSION:
        raise ConfigError(
            f"collection {name!r} has texts split into terms by rules of version {state.terms}, "
            f"and queries are by those of version {TERMS_VERSION}; index again with --rebuild"
        )
    if settings.token_vectors and not state.token_vectors:
        raise ConfigError(
            f"collection {name!r} holds no token vectors, but qdrant.token_vectors is on; {mend}"
        )


def _differences(stored: Bm25Settings, asked: Bm25Settings) -> str:
    pairs = zip(stored, asked, strict=True)
    return ", ".join(
        f"{key}={old!r} (settings: {new!r})" for (key, old), (_, new) in pairs if old != new
    )


def next_epoch(last: int) -> int:
    """A larger number, and a different one in every process that writes at the same time."""
    return max(last + 1, time.time_ns() // 1_000)


def collection_schema(state: CollectionState, settings: QdrantSettings) -> dict[str, Any]:
    """Arguments for ``create_collection``."""
    from qdrant_client import models

    vectors: dict[str, models.VectorParams] = {}
    if state.dense_vectors:
        vectors[DENSE] = models.VectorParams(size=state.dim, distance=models.Distance.DOT)
    if state.token_vectors:
        vectors[TOKENS] = models.VectorParams(
            size=state.dim,
            distance=models.Distance.DOT,
            on_disk=True,
            hnsw_config=models.HnswConfigDiff(m=0),  # read for reranking, never searched
            multivector_config=models.MultiVectorConfig(
                comparator=models.MultiVectorComparator.MAX_SIM
            ),
        )
    cluster = {"shard_number": settings.shards, "replication_factor": settings.replicas}
    return {
        "vectors_config": vectors,
        "sparse_vectors_config": {BM25: models.SparseVectorParams(modifier=models.Modifier.IDF)},
        "metadata": state.metadata(),
        **{key: value for key, value in cluster.items() if value is not None},
    }


def point_id(doc_id: str) -> str:
    """Qdrant takes UUIDs only; the document's own id is in the payload."""
    return str(uuid.uuid5(_NAMESPACE, doc_id))


def point(
    prepared: Prepared,
    dense: "FloatArray | None",
    terms: SparseTerms,
    tokens: "FloatArray | None",
) -> "models.PointStruct":
    """A document as Qdrant stores it."""
    from qdrant_client import models

    sparse = models.SparseVector(indices=terms.ids, values=terms.values)
    vectors: dict[str, Any] = {BM25: sparse}
    if dense is not None:
        vectors[DENSE] = dense.tolist()
    if tokens is not None:
        vectors[TOKENS] = tokens.tolist()
    return models.PointStruct(
        id=point_id(prepared.document.id), vector=vectors, payload=payload(prepared)
    )


def payload(prepared: Prepared) -> dict[str, Any]:
    """What is stored of a document beside its vectors."""
    document = prepared.document
    return {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "metadata": dict(document.metadata),
        "hash": prepared.hash,
        "text_hash": prepared.text_hash,
        "length": prepared.terms.length,
    }


def document_of(stored: Mapping[str, Any]) -> Document:
    """The document in a payload."""
    return Document(stored["id"], stored["text"], stored["title"], stored["metadata"])
