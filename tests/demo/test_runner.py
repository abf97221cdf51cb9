"""How the demo adapts an operator's settings."""

from importlib.resources import files
from pathlib import Path

import pytest

from funnel.demo import loader
from funnel.demo.runner import SPEND_CAP_USD, demo_settings
from funnel.settings import FunnelSettings

CONFIGS = Path(str(files("funnel").joinpath("configs")))


@pytest.fixture
def embedded() -> FunnelSettings:
    return FunnelSettings.from_yaml(CONFIGS / "embedded.yaml", environment={})


def test_demo_leaves_the_operators_collection_and_cache_alone(embedded: FunnelSettings) -> None:
    """Documents go into a collection named after their content, answers into memory."""
    settings = demo_settings(embedded, None)
    assert settings.collection == f"demo-{loader.corpus_fingerprint()}"
    assert settings.cache is not None and settings.cache.store == "memory"
    assert settings.stages == embedded.stages


def test_demo_settings_are_valid_as_a_whole(embedded: FunnelSettings) -> None:
    """The adapted settings pass the validation that files go through."""
    settings = demo_settings(embedded, CONFIGS / "llm.yaml")
    plain = settings.model_dump(mode="json", exclude_none=True)
    assert FunnelSettings.from_mapping(plain).hash == settings.hash


def test_slow_machines_are_given_time(embedded: FunnelSettings) -> None:
    """Neither a deadline nor the verifier's limit cuts the demo short; the rest is kept."""
    settings = demo_settings(embedded, None)
    assert embedded.cache is not None and settings.cache is not None
    assert settings.deadline_ms is None
    assert settings.cache.verifier.timeout_ms > embedded.cache.verifier.timeout_ms
    assert settings.cache.verifier.model == embedded.cache.verifier.model
    assert settings.cache.target_precision == embedded.cache.target_precision


def test_redis_address_does_not_outlive_the_change_to_memory() -> None:
    """A service's Redis settings turn into a memory cache without an address."""
    base = FunnelSettings.from_yaml(CONFIGS / "default.yaml", environment={})
    settings = demo_settings(base, None)
    assert settings.cache is not None
    assert (settings.cache.store, settings.cache.url) == ("memory", None)


def test_llm_stage_is_appended_under_a_spend_cap(embedded: FunnelSettings) -> None:
    """With a key the shipped LLM stage comes last and cannot run away with the bill."""
    last = demo_settings(embedded, CONFIGS / "llm.yaml").stages[-1]
    assert last.kind == "llm_listwise"
    assert last.k <= embedded.stages[-1].k
    assert last.model_dump()["max_usd_per_process"] == SPEND_CAP_USD


def test_llm_stage_is_not_doubled() -> None:
    """A file that has an LLM stage keeps its own."""
    base = FunnelSettings.from_yaml(CONFIGS / "llm.yaml", environment={})
    assert demo_settings(base, CONFIGS / "llm.yaml").stages == base.stages


def test_demo_asks_without_a_tenant(embedded: FunnelSettings) -> None:
    """Its documents belong to nobody, so the operator's tenants are no part of it."""
    base = embedded.model_copy(update={"scope_field": "tenant"})
    assert demo_settings(base, None).scope_field is None
