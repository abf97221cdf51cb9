"""A compiled network: from disk or anew, and for any number of threads."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("openvino")

from openvino.tools.ovc.telemetry_utils import init_ovc_telemetry  # noqa: E402
from openvino_telemetry.utils.sender import TelemetrySender  # noqa: E402

from funnel.models import openvino_compiled, sealed  # noqa: E402
from funnel.models.openvino_compiled import Compiled, converted  # noqa: E402

SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "2"}


def _twice() -> Any:
    layer = torch.nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(2 * torch.eye(4))
    return converted(layer, torch.zeros(2, 4))


def _open(name: str) -> Compiled:
    return Compiled(f"openvino/{name}.blob", SETTINGS, _twice, [np.zeros((2, 4), np.float32)])


def test_threads_call_it_at_once_and_get_their_own_answers() -> None:
    """Opened in many threads, too; every caller is answered within the test's time."""
    together = threading.Barrier(8)

    def use(number: int) -> float:
        together.wait(30)
        network = _open(f"threads-{number % 2}")
        values = [
            float(network([np.full((row, 4), number, np.float32)]).copy()[0, 0])
            for row in range(1, 30)
        ]
        assert set(values) == {2.0 * number}
        return values[0]

    with ThreadPoolExecutor(8) as executor:
        assert list(executor.map(use, range(8))) == [2.0 * number for number in range(8)]


def test_it_has_been_called_once_before_anybody_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, under the lock: the binding's first arrays must not come from two threads at once."""
    called: list[bool] = []
    plain = Compiled.__call__

    def noted(self: Compiled, inputs: Any) -> Any:
        called.append(openvino_compiled._ONE_AT_A_TIME.locked())
        return plain(self, inputs)

    monkeypatch.setattr(Compiled, "__call__", noted)
    _open("first-call")
    assert called == [True]


def test_what_was_kept_is_used() -> None:
    """The second opening converts nothing."""

    def never() -> Any:
        raise AssertionError("converted again")

    first = _open("kept")
    again = Compiled("openvino/kept.blob", SETTINGS, never, [np.zeros((2, 4), np.float32)])
    row = np.arange(4, dtype=np.float32)[None]
    np.testing.assert_array_equal(first([row]), again([row]))
    assert sealed.read("openvino/kept.blob")


def test_nobody_is_told_of_a_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO would send a handful of messages over the network."""
    sent: list[object] = []
    monkeypatch.setattr(init_ovc_telemetry(), "consent", True)
    monkeypatch.setattr(TelemetrySender, "send", lambda *message: sent.append(message))
    _twice()
    assert sent == []


def test_a_fork_leaves_its_parents_networks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """To give threads back that it does not have would hold up its end for ever."""
    network, row = _open("forked"), np.ones((1, 4), np.float32)
    with monkeypatch.context() as fork:
        fork.setattr("funnel.models.openvino_compiled.os.getpid", lambda: -1)
        network.release()
    assert network([row]).tolist() == [[2.0] * 4]
