"""Values of the ``cache:`` block that no store could live with are errors of the configuration."""

from typing import Any

import pytest

from funnel.errors import ConfigError
from funnel.settings import FunnelSettings


def read(**cache: Any) -> FunnelSettings:
    """The settings of a funnel with this cache."""
    return FunnelSettings.from_mapping({"stages": [{"kind": "bm25", "k": 5}], "cache": cache})


@pytest.mark.parametrize(
    "name",
    [
        "ttl_s",
        "empty_ttl_s",
        "stale_while_revalidate_s",
        "stale_on_error_s",
        "max_staleness_s",
        "flight_wait_s",
        "lease_s",
        "lease_wait_s",
    ],
)
def test_a_time_is_at_most_ten_years(name: str) -> None:
    """Longer ones overflow a server's clock, and a record without an end would stay for ever."""
    read(**{name: 10 * 365 * 86_400})
    with pytest.raises(ConfigError, match=rf"cache\.{name}: got 1e\+17, expected less than"):
        read(**{name: 1e17})


@pytest.mark.parametrize(("name", "most"), [("max_entries", 10**7), ("max_bytes", 2**50)])
def test_caps_have_a_cap(name: str, most: int) -> None:
    """More than any memory holds is a slip, and says so before it is allocated."""
    read(**{name: most})
    with pytest.raises(ConfigError, match=rf"cache\.{name}: got {most + 1}, expected less than"):
        read(**{name: most + 1})


def test_a_path_without_a_zero_byte() -> None:
    """No file can have one in its name."""
    with pytest.raises(ConfigError, match=r"cache\.path: got 'a\\x00b' with a zero byte"):
        read(store="sqlite", path="a\0b")
