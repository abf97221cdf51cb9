"""Work beside other work."""

import threading

import pytest

from funnel.models.hardware import available_cores, beside

torch = pytest.importorskip("torch")


def test_work_beside_gives_its_result_and_keeps_torchs_threads() -> None:
    """It runs in another thread, with one torch thread; the program's own setting stays."""
    before = torch.get_num_threads()
    wait = beside(lambda: (threading.current_thread().name, torch.get_num_threads()))
    assert wait() == ("funnel-beside", 1)
    assert torch.get_num_threads() == before


def test_work_beside_raises_where_it_is_waited_for() -> None:
    """Not in the thread, where nobody would see it."""

    def fail() -> None:
        raise ValueError("no vector")

    wait = beside(fail)
    with pytest.raises(ValueError, match="no vector"):
        wait()


def test_there_is_a_core() -> None:
    """Whatever affinity and quota say."""
    assert available_cores() >= 1
