"""Work beside other work."""

import os
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


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_cores_are_those_that_the_process_may_use() -> None:
    """Not those of the machine."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert 1 <= available_cores() <= len(before)
