"""A language model behind OpenRouter that ranks whole lists of passages."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from pydantic import Field, SecretStr, field_validator, model_validator

from funnel.deadline import Deadline
from funnel.errors import ConfigError, StageError
from funnel.log import Seldom, get_logger
from funnel.stages.attempts import Attempts, MaxPrice, Wishes, models_of
from funnel.stages.base import Ranked, Role, Stage, StageOutput, StageRequest, StageSettings
from funnel.stages.document_text import TITLE_AND_TEXT, Template
from funnel.stages.listwise_pass import ListwisePass
from funnel.stages.listwise_prompt import PROMPT_VERSION
from funnel.stages.openrouter import BASE_URL, OpenRouter, check_base_url, check_key
from funnel.stages.spend import PROCESS, Ledger, QuerySpend, SpendCaps
from funnel.stages.windows import windows
from funnel.types import Candidate, ScoreKind

if TYPE_CHECKING:
    from funnel.resources import Resources

log = get_logger(__name__)

_MARGIN_SHARE, _MARGIN_S = 0.05, 0.05
"""Kept of the stage's time, the smaller of the two, to hand over what was ranked so far."""


class LlmListwiseSettings(StageSettings):
    """A model, its fallbacks, and limits of time, money and length.

    ``model`` and ``fallback_models`` are OpenRouter's names. Lists of up to ``in_one_call``
    passages are one call; longer ones are ranked in windows of ``window`` passages that move up by
    ``stride``. ``template`` says what is shown of a document, up to ``max_passage_chars``.
    ``shuffle_seed`` shows the passages of a call in an order shuffled by that seed
    (against position bias) instead of the prior order. ``max_price`` restricts routing to
    endpoints that take no more, and makes the check of the caps exact before a model's first
    answer. ``max_usd_per_process`` counts all funnels of the process. The key comes from
    ``OPENROUTER_API_KEY`` only.
    """

    kind: str = "llm_listwise"
    model: str = Field(min_length=1)
    fallback_models: tuple[str, ...] = ()
    window: int = Field(default=20, ge=2, le=100)
    stride: int = Field(default=10, ge=1)
    in_one_call: int = Field(default=30, ge=1, le=100)
    template: Template = TITLE_AND_TEXT
    max_passage_chars: int = Field(default=1_500, ge=50)
    max_tokens: int = Field(default=256, ge=16)
    temperature: float | None = Field(default=0.0, ge=0, le=2)
    sort: Literal["latency", "price", "throughput"] | None = "latency"
    data_collection: Literal["deny", "allow"] = "deny"
    max_price: MaxPrice | None = None
    shuffle_seed: int | None = None
    max_usd_per_query: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_usd_per_process: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    call_timeout_ms: float = Field(default=30_000, gt=0, le=600_000)
    base_url: str = BASE_URL
    site_url: str = "http://localhost"
    site_title: str = "retrieval-funnel"

    @property
    def reads_dense(self) -> bool:
        """It shows texts to a model."""
        return False

    @field_validator("base_url")
    @classmethod
    def _key_travels_safely(cls, value: str) -> str:
        return check_base_url(value)

    @field_validator("site_url", "site_title")
    @classmethod
    def _fits_a_header(cls, value: str) -> str:
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"got {value!r}, expected printable ASCII: it becomes a header")
        return value

    @model_validator(mode="after")
    def _windows_overlap(self) -> Self:
        if self.stride >= self.window:
            raise ValueError(
                f"stride: got {self.stride}, expected less than window ({self.window}): windows "
                "that do not overlap let no document rise"
            )
        return self

    @model_validator(mode="after")
    def _has_no_scores(self) -> Self:
        if self.min_score is not None:
            raise ValueError(
                f"min_score: got {self.min_score}, but 'llm_listwise' ranks without scores; "
                "set it on an earlier stage"
            )
        return self

    def wishes(self) -> Wishes:
        """What is asked of an endpoint."""
        return Wishes(
            models=models_of(self.model, self.fallback_models),
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            sort=self.sort,
            data_collection=self.data_collection,
            max_price=self.max_price,
        )


class LlmListwiseStage(Stage):
    """Orders candidates as a language model ranks them; gives ranks, no scores.

    Whatever the model answers, the result is a permutation of the candidates.
    """

    kind: ClassVar[str] = "llm_listwise"
    role: ClassVar[Role] = "rerank"
    Settings = LlmListwiseSettings
    settings: LlmListwiseSettings

    def __init__(
        self, settings: LlmListwiseSettings, key: SecretStr | None, ledger: Ledger = PROCESS
    ) -> None:
        super().__init__(settings)
        self._key = key
        self._ledger = ledger
        self._client: OpenRouter | None = None
        self._seldom = Seldom(log)

    @classmethod
    def build(cls, settings: StageSettings, resources: "Resources") -> Self:
        """Take the key from the resources; nothing is called yet."""
        return cls(cast("LlmListwiseSettings", settings), resources.openrouter_api_key)

    @property
    def score_kind(self) -> ScoreKind:
        """Ranks only."""
        return "rank"

    def identity(self) -> Mapping[str, Any]:
        """The settings that change a ranking, and the prompt's version."""
        limits = {"timeout_ms", "on_error", "call_timeout_ms", "site_url", "site_title"}
        caps = {"max_usd_per_query", "max_usd_per_process"}
        plain = self.settings.model_dump(mode="json", exclude=limits | caps)
        return {**plain, "prompt": PROMPT_VERSION}

    async def start(self) -> None:
        """Check that there is a key, and make the client.

        Raises:
            AuthError: there is none, and ``on_error`` is ``raise``.
        """
        try:
            self._connected()
        except StageError as error:
            if self.settings.on_error == "raise":
                raise
            log.warning("llm_stage_without_key", stage=self.settings.name, message=str(error))

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def run(self, request: StageRequest, candidates: Sequence[Candidate]) -> StageOutput:
        """Rank the candidates window by window.

        An answer without any id is asked for once more; if that names none either, the window
        keeps its prior order, the output is degraded, and later windows get one try. An error
        after money was spent or a window was ranked ends the pass early and becomes the
        ``degraded`` reason, so that neither is lost; with ``on_error: raise`` it is raised.

        Raises:
            StageError: nothing could be ranked.
            ConfigError: the same, because no endpoint meets the constraints.
        """
        if len(candidates) < 2:
            return StageOutput([Ranked(candidate.document, None) for candidate in candidates])
        settings = cast("LlmListwiseSettings", request.settings)
        listwise = self._begin(settings, request, candidates)
        spans = windows(len(candidates), settings.window, settings.stride, settings.in_one_call)
        try:
            for start, end in spans:
                await listwise.rank(start, end)
        except (StageError, ConfigError) as error:  # a 404 is one of the configuration
            if settings.on_error == "raise" or not listwise.worth_keeping:
                raise
            listwise.degrade(getattr(error, "reason", StageError.reason), str(error))
        return listwise.output(len(spans))

    def _begin(
        self,
        settings: LlmListwiseSettings,
        request: StageRequest,
        candidates: Sequence[Candidate],
    ) -> ListwisePass:
        caps = SpendCaps(settings.max_usd_per_query, settings.max_usd_per_process)
        attempts = Attempts(
            client=self._connected(),
            wishes=settings.wishes(),
            spend=QuerySpend(caps, self._ledger),
            deadline=_inner(request.deadline),
            call_timeout_s=settings.call_timeout_ms / 1000,
            passage_chars=settings.max_passage_chars,
        )
        return ListwisePass(
            query=request.query.text,
            documents=[candidate.document for candidate in candidates],
            attempts=attempts,
            stage=settings.name,
            template=settings.template,
            shuffle_seed=settings.shuffle_seed,
            raises=settings.on_error == "raise",
            seldom=self._seldom,
        )

    def _connected(self) -> OpenRouter:
        if self._client is None:
            headers = {
                "HTTP-Referer": self.settings.site_url,
                "X-OpenRouter-Title": self.settings.site_title,
            }
            self._client = OpenRouter(self.settings.base_url, check_key(self._key), headers)
        return self._client


def _inner(deadline: Deadline) -> Deadline:
    """A deadline a little before the engine's own."""
    remaining = deadline.remaining_s()
    if remaining is None:
        return deadline
    return deadline.within(remaining - min(_MARGIN_S, _MARGIN_SHARE * remaining))
