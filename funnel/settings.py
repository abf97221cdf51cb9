"""What an operator tunes: the settings tree and how a file and the environment become one."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from funnel.cache.settings import CacheSettings
from funnel.config_source import (
    RawConfig,
    dotted,
    overlay,
    qdrant_mapping,
    read_config,
    shown,
)
from funnel.errors import ConfigError, InputError
from funnel.indexing.filters import check_filters
from funnel.indexing.qdrant import Bm25Settings, QdrantSettings
from funnel.models.names import EncoderName
from funnel.registry import known_kinds, stage_class, suggestion
from funnel.settings_model import SettingsModel
from funnel.stages.base import StageSettings
from funnel.yaml_source import KeyPath

DEFAULT_EMBEDDER = "embedded:all-MiniLM-L6-v2"


class _Misfit(ValueError):
    """A value that does not fit the others, with its own place for the message."""

    def __init__(self, path: KeyPath, message: str) -> None:
        self.path = path
        super().__init__(message)


class ModelsSettings(SettingsModel):
    """``embedder`` is the encoder of the index: ``embedded:NAME``, a hub id or a path."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embedder: EncoderName = DEFAULT_EMBEDDER


class Secrets(BaseSettings):
    """Keys that come from the environment only and are never written into a file or a log."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    openrouter_api_key: SecretStr | None = None
    funnel_service_token: SecretStr | None = None


class FunnelSettings(SettingsModel):
    """One funnel: its collection, stages, models, stores and limits.

    ``deadline_ms`` is the default for a query; ``reserve_ms`` of it are kept back so that a
    fallback can still answer in time. ``p99_target_ms``: when more is asked than this process can
    do, fewer candidates are scored and optional stages left out, so that queries take no longer;
    without such pressure it changes nothing. ``scope_field`` names the metadata field that a call's
    ``scope`` must equal; without it a scope separates cache entries only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    collection: str = Field(default="documents", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")
    deadline_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    reserve_ms: float = Field(default=10, ge=0, allow_inf_nan=False)
    p99_target_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    scope_field: str | None = None
    models: ModelsSettings = ModelsSettings()
    stages: tuple[SerializeAsAny[StageSettings], ...] = Field(min_length=1)
    qdrant: QdrantSettings = QdrantSettings()
    bm25: Bm25Settings = Bm25Settings()
    cache: CacheSettings | None = None

    @classmethod
    def from_yaml(
        cls, path: str | Path, *, environment: Mapping[str, str] | None = None
    ) -> "FunnelSettings":
        """Read a YAML file with the environment laid over it.

        Raises:
            ConfigError: names file, key path, what was got, what was expected, and the mend.
        """
        return _validated(read_config(path, environment))

    @classmethod
    def from_mapping(
        cls, data: Mapping[str, Any], *, environment: Mapping[str, str] | None = None
    ) -> "FunnelSettings":
        """Validate plain data; the environment is used only if it is given.

        Raises:
            ConfigError: as ``from_yaml``.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"settings: got {type(data).__name__}, expected a mapping")
        return _validated(overlay(data, "settings", environment or {}))

    @field_validator("stages", mode="before")
    @classmethod
    def _typed_stages(cls, value: Any) -> Any:
        """Each stage as its kind's own settings; ConfigError as ``from_mapping`` raises it."""
        return _stages(RawConfig({}, "settings"), value)

    @field_validator("qdrant", mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return qdrant_mapping(value)

    @field_validator("scope_field")
    @classmethod
    def _can_be_filtered_on(cls, value: str | None) -> str | None:
        try:
            check_filters({} if value is None else {value: True})
        except InputError as error:
            raise ValueError(
                f"got {value!r}, expected the name of a metadata field, such as 'tenant'"
            ) from error
        return value

    @model_validator(mode="after")
    def _stages_fit_together(self) -> Self:
        _check_time(self.deadline_ms, self.reserve_ms)
        _check_names(self.stages)
        _check_roles(self.stages)
        _check_first(self.stages[0])
        _check_k(self.stages)
        _check_last(self.stages[-1], len(self.stages) - 1)
        _check_vectors(self.stages, self.qdrant)
        return self

    @property
    def hash(self) -> str:
        """Twelve hex digits that change when any setting but a secret changes."""
        plain = self.model_dump(mode="json", exclude={"qdrant": {"api_key"}})
        canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def _check_time(deadline_ms: float | None, reserve_ms: float) -> None:
    if deadline_ms is not None and deadline_ms <= reserve_ms:
        raise _Misfit(
            ("deadline_ms",),
            f"got {deadline_ms:g}, expected more than reserve_ms ({reserve_ms:g}), which is kept "
            "back: no stage could run; raise deadline_ms or lower reserve_ms",
        )


def _check_names(stages: tuple[StageSettings, ...]) -> None:
    seen: dict[str, int] = {}
    for index, stage in enumerate(stages):
        if stage.name in seen:
            raise _Misfit(
                ("stages", index, "name"),
                f"got {stage.name!r}, which stages[{seen[stage.name]}] has; "
                "give one of them another 'name'",
            )
        seen[stage.name] = index


def _check_roles(stages: tuple[StageSettings, ...]) -> None:
    for index, stage in enumerate(stages):
        expected = "retrieve" if index == 0 else "rerank"
        found = stage_class(stage.kind)
        if not isinstance(stage, found.Settings):
            raise _Misfit(
                ("stages", index),
                f"got {type(stage).__name__} of kind {stage.kind!r}, "
                f"expected {found.Settings.__name__}",
            )
        role = found.role
        if role != expected:
            raise _Misfit(
                ("stages", index, "kind"),
                f"got {stage.kind!r}, which does {role}; expected a stage that does {expected} "
                f"({'the first finds' if index == 0 else 'later ones rerank'})",
            )


def _check_first(stage: StageSettings) -> None:
    without_effect = {
        "depth": stage.depth is not None,
        "optional": stage.optional,
        "tail": stage.tail != "drop",
    }
    for key, given in without_effect.items():
        if given:
            raise _Misfit(
                ("stages", 0, key),
                f"got {getattr(stage, key)!r}, which has no effect on the stage that retrieves; "
                "leave it out, or give it to a later stage",
            )


def _check_k(stages: tuple[StageSettings, ...]) -> None:
    for index in range(1, len(stages)):
        before, here = stages[index - 1].k, stages[index].k
        if here > before:
            raise _Misfit(
                ("stages", index, "k"),
                f"got {here}, expected at most {before}, the k of the stage before it; "
                "a funnel never widens",
            )


def has_idle_tail(stage: StageSettings) -> bool:
    """Whether ``tail: keep`` adds nothing if the stage is the last, whose ``k`` hits are returned.

    Only a stage that leaves candidates unread or refuses some returns fewer, to be filled up.
    """
    return stage.tail == "keep" and stage.depth is None and stage.min_score is None


def _check_last(stage: StageSettings, index: int) -> None:
    if has_idle_tail(stage):
        raise _Misfit(
            ("stages", index, "tail"),
            f"got 'keep', which has no effect on the last stage: its k ({stage.k}) is how many "
            "hits are returned; leave it out and raise k, or set depth so that the stage ranks "
            "only the best and the rest follow up to k",
        )


def _check_vectors(stages: tuple[StageSettings, ...], qdrant: QdrantSettings) -> None:
    reading = [stage.name for stage in stages if stage.reads_dense]
    if reading and not qdrant.dense_vectors:
        raise _Misfit(
            ("qdrant", "dense_vectors"),
            f"got false, but stage {reading[0]!r} may read dense vectors; leave the key out, or "
            "retrieve by bm25",
        )


def _validated(raw: RawConfig) -> FunnelSettings:
    data = dict(raw.data)
    if "stages" in data:
        data["stages"] = _stages(raw, data["stages"])
    try:
        settings = FunnelSettings.model_validate(data)
    except ValidationError as error:
        raise _config_error(error, FunnelSettings, raw, ()) from error
    if settings.cache is not None:
        _check_cache(settings.cache, raw)
    return settings


def _check_cache(cache: CacheSettings, raw: RawConfig) -> None:
    """Whether its store can have that address, and its calibrator be read."""
    for key, check in (("url", _check_address), ("calibrator", _check_calibrator)):
        try:
            check(cache)
        except ConfigError as error:  # without what it came from: that may show a password
            raise ConfigError(f"{raw.place(('cache', key))}: {error}") from None


def _check_address(cache: CacheSettings) -> None:
    if cache.url is not None:
        from funnel.cache.redis_url import checked_url

        checked_url(cache.url.get_secret_value())


def _check_calibrator(cache: CacheSettings) -> None:
    if cache.calibrator is not None:
        from funnel.cache.calibrator import Calibrator

        Calibrator.load(cache.calibrator)


def _stages(raw: RawConfig, value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value  # pydantic says what is expected
    return [_stage(raw, index, item) for index, item in enumerate(value)]


def _stage(raw: RawConfig, index: int, item: Any) -> StageSettings:
    if isinstance(item, StageSettings):
        return item
    place = raw.place(("stages", index))
    if not isinstance(item, Mapping) or "kind" not in item:
        raise ConfigError(
            _mistyped_kind(raw, index, item)
            or f"{place}: stages[{index}]: got {shown((), item)}, expected a mapping with a 'kind'"
        )
    place = raw.place(("stages", index, "kind"))
    if not isinstance(item["kind"], str):
        raise ConfigError(
            f"{place}: stages[{index}].kind: got {shown((), item['kind'])}, expected a text; "
            f"known: {', '.join(known_kinds())}"
        )
    try:
        model = stage_class(item["kind"]).Settings
        return model.model_validate(dict(item))
    except ConfigError as error:
        raise ConfigError(f"{place}: stages[{index}].kind: {error}") from error
    except ValidationError as error:
        raise _config_error(error, model, raw, ("stages", index)) from error


def _mistyped_kind(raw: RawConfig, index: int, item: Any) -> str:
    """What to say of the key that was to be ``kind``; empty if none looks like it."""
    for key in item if isinstance(item, Mapping) else ():
        if hint := suggestion(str(key), ("kind",)):
            place = raw.place(("stages", index, str(key)))
            return f"{place}: stages[{index}].{key}: unknown key{hint} every stage has a 'kind'"
    return ""


def _config_error(
    error: ValidationError, model: type[BaseModel], raw: RawConfig, prefix: tuple[str | int, ...]
) -> ConfigError:
    lines = [_line(problem, model, raw, prefix) for problem in error.errors(include_url=False)]
    return ConfigError("\n".join(dict.fromkeys(lines)))


def _line(
    problem: Any, model: type[BaseModel], raw: RawConfig, prefix: tuple[str | int, ...]
) -> str:
    path = (*prefix, *problem["loc"])
    place = raw.place(path)
    if problem["type"] == "extra_forbidden":
        return f"{place}: {dotted(path)}: unknown key{_known_keys(model, problem['loc'])}"
    if problem["type"] == "value_error":  # ours: the message says it all
        error = problem["ctx"]["error"]
        if isinstance(error, _Misfit):
            return f"{raw.place(error.path)}: {dotted(error.path)}: {error}"
        return f"{place}: {error if not problem['loc'] else f'{dotted(path)}: {error}'}"
    if problem["type"] == "missing":
        return f"{place}: {dotted(path)}: missing; expected a value"
    expected = _expected(problem, model)
    return f"{place}: {dotted(path)}: got {shown(path, problem['input'])}, expected {expected}"


def _expected(problem: Any, model: type[BaseModel]) -> str:
    """What pydantic expected, in the words of a YAML file."""
    match problem["type"]:
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"a mapping{_known_keys(model, (*problem['loc'], ''))}"
        case "tuple_type" | "list_type":
            return "a list"
        case "too_short":
            return f"a list of at least {problem['ctx']['min_length']}"
        case "string_pattern_mismatch":
            return f"a text that matches {problem['ctx']['pattern']}"
    message: str = problem["msg"].removeprefix("Input should be ")
    return message[:1].lower() + message[1:]


def _known_keys(model: type[BaseModel], location: tuple[str | int, ...]) -> str:
    fields = _fields_at(model, location[:-1])
    if not fields:
        return ""
    known = ", ".join(fields)
    return f"{suggestion(str(location[-1]), fields) or ';'} known here: {known}"


def _fields_at(model: type[BaseModel], location: tuple[str | int, ...]) -> tuple[str, ...]:
    for part in location:
        field = model.model_fields.get(str(part))
        inner = field and _model_in(field.annotation)
        if not inner:
            return ()
        model = inner
    return tuple(sorted(model.model_fields))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    options = getattr(annotation, "__args__", (annotation,))
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
