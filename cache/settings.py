"""What an operator tunes of the semantic cache: the ``cache:`` block of the YAML."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from funnel.cache.store import LONGEST_S, StoreLimits
from funnel.cache.synonyms import plain
from funnel.models.names import ScorerName
from funnel.settings_model import SettingsModel

_MOST_ENTRIES = 10_000_000  # who asked for room is remembered in 16 bytes for each
_MOST_BYTES = 2**50
_LONGEST_WORDING = 200


class VerifierSettings(SettingsModel):
    """The duplicate cross-encoder. ``timeout_ms`` bounds its one pass; a timeout is a miss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ScorerName = "embedded:duplicate"
    timeout_ms: float = Field(default=250, gt=0, le=10_000)


class GuardSettings(SettingsModel):
    """Which differences between two questions are looked for before the verifier is believed.

    ``spelling`` is the other way round: slips of the pen are no difference. ``whole_answer`` is for
    services to which half an answer is a wrong one: whether is not how or why, and what only one
    question asks besides makes it another.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    numbers: bool = True
    opposites: bool = True
    negation: bool = True
    entities: bool = True
    order: bool = True
    spelling: bool = True
    whole_answer: bool = False


class CacheSettings(SettingsModel):
    """The semantic cache.

    Where: ``store`` with ``url`` (Redis) or ``path`` (SQLite); ``namespace`` separates deployments
    on one server. ``max_entries`` and ``max_bytes`` cap the store, ``max_entry_bytes`` one entry.
    ``timeout_ms`` bounds every call to the store, and half of what a query has left those of it.

    What is a hit: the ``candidates`` nearest cached queries at a cosine of at least ``floor``
    (None: the calibrator's) are verified; ``target_precision`` picks the threshold that the
    ``calibrator`` file certifies for it (None: the one shipped for the shipped verifier).
    ``threshold`` overrules the calibrator, without a certificate. ``synonyms`` are groups of
    wordings that mean the same in this service: the cache reads each as the first of its group.

    How long: ``ttl_s``, shortened by up to ``ttl_jitter`` of it, so that entries made together do
    not expire together; ``empty_ttl_s`` for empty answers. ``early_refresh`` > 0 recomputes popular
    entries in the background shortly before they expire. Past its time an entry may be served,
    flagged stale, for ``stale_while_revalidate_s`` (and is recomputed), or for
    ``stale_on_error_s`` when the stages fail. Nothing older than ``max_staleness_s`` is served.

    Index writes: ``invalidation: documents`` drops the entries that hold a written document, those
    whose query is at ``insert_floor`` or nearer to a part of it, and those shorter than their k;
    writes of more than ``bulk_documents`` documents, and every write under ``invalidation: epoch``,
    drop everything.

    Sharing work: waiters join a computation in flight for at most ``flight_wait_s``, then one of
    them computes and the others wait as long once more; other processes wait for a lease of
    ``lease_s`` for at most ``lease_wait_s``.

    Watching: ``audit_share`` of the semantic hits are computed again in the background; an audit
    agrees when the two lists share at least ``audit_overlap``. Below target, the threshold rises.
    ``metrics`` reports the cache in the default Prometheus registry.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    store: Literal["memory", "sqlite", "redis"] = "memory"
    url: SecretStr | None = None
    path: Path = Path(".funnel/cache.sqlite")
    namespace: str = Field(default="funnel", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    timeout_ms: float = Field(default=50, gt=0, le=5_000)
    max_entries: int = Field(default=100_000, ge=1, le=_MOST_ENTRIES)
    max_bytes: int = Field(default=512 * 1024 * 1024, ge=4096, le=_MOST_BYTES)
    max_entry_bytes: int = Field(default=1024 * 1024, ge=256)

    verifier: VerifierSettings = VerifierSettings()
    guards: GuardSettings = GuardSettings()
    synonyms: tuple[tuple[str, ...], ...] = ()
    semantic: bool = True
    candidates: int = Field(default=5, ge=1, le=50)
    floor: float | None = Field(default=None, ge=-1, le=1)
    target_precision: float = Field(default=0.95, gt=0, lt=1)
    calibrator: Path | None = None
    threshold: float | None = Field(default=None, allow_inf_nan=False)

    ttl_s: float = Field(default=86_400, gt=0, le=LONGEST_S)
    ttl_jitter: float = Field(default=0.1, ge=0, lt=1)
    empty_ttl_s: float = Field(default=60, ge=0, le=LONGEST_S)
    early_refresh: float = Field(default=1.0, ge=0)
    stale_while_revalidate_s: float = Field(default=0, ge=0, le=LONGEST_S)
    stale_on_error_s: float = Field(default=0, ge=0, le=LONGEST_S)
    max_staleness_s: float | None = Field(default=None, gt=0, le=LONGEST_S)

    invalidation: Literal["documents", "epoch"] = "documents"
    insert_floor: float = Field(default=0.25, ge=-1, le=1)
    bulk_documents: int = Field(default=64, ge=0)

    flight_wait_s: float = Field(default=10, ge=0, le=LONGEST_S)
    lease_s: float = Field(default=5, gt=0, le=LONGEST_S)
    lease_wait_s: float = Field(default=2, ge=0, le=LONGEST_S)
    local_entries: int = Field(default=1_024, ge=0)
    epoch_lag_ms: float = Field(default=500, ge=0, le=1_000)

    audit_share: float = Field(default=0.01, ge=0, le=1)
    audit_overlap: float = Field(default=0.5, gt=0, le=1)
    metrics: bool = False

    @field_validator("path")
    @classmethod
    def _a_path_that_can_be_one(cls, path: Path) -> Path:
        if "\0" in str(path):
            raise ValueError(f"got {str(path)!r} with a zero byte, expected a file's name")
        return path

    @field_validator("synonyms")
    @classmethod
    def _wordings_that_mean_one_thing(
        cls, groups: tuple[tuple[str, ...], ...]
    ) -> tuple[tuple[str, ...], ...]:
        group_of: dict[str, int] = {}
        for number, group in enumerate(groups):
            if len({plain(wording) for wording in group}) < 2:
                raise ValueError(f"got {list(group)}, expected a list of two wordings or more")
            for wording in group:
                if not re.search(r"\w", wording) or len(wording) > _LONGEST_WORDING:
                    raise ValueError(
                        f"got {wording[:40]!r} of {len(wording)} characters, expected a wording "
                        f"with a letter or digit, of at most {_LONGEST_WORDING}"
                    )
                if group_of.setdefault(plain(wording), number) != number:
                    raise ValueError(f"{wording!r} is in two groups; leave it in one, or join them")
        return tuple(tuple(wording.strip() for wording in group) for group in groups)

    @model_validator(mode="after")
    def _redis_has_an_address(self) -> Self:
        if self.store == "redis" and self.url is None:
            raise ValueError("url: missing; store 'redis' needs url: ${REDIS_URL} or redis://…")
        if self.store != "redis" and self.url is not None:
            raise ValueError(f"url: got one, but store is {self.store!r}; set store: redis")
        return self

    @model_validator(mode="after")
    def _a_file_is_used(self) -> Self:
        """A store that is named says what is meant, as a variable over a file that has both."""
        if (
            self.store != "sqlite"
            and "path" in self.model_fields_set
            and "store" not in self.model_fields_set
        ):
            raise ValueError(f"path: got one, but store is {self.store!r}; set store: sqlite")
        return self

    @property
    def limits(self) -> StoreLimits:
        """What the store is built with."""
        return StoreLimits(
            namespace=self.namespace,
            timeout_ms=self.timeout_ms,
            max_entries=self.max_entries,
            max_bytes=self.max_bytes,
        )
