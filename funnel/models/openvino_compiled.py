"""Modules compiled by OpenVINO, from disk where this machine and version compiled them before.

Imports torch and openvino: import lazily.
"""

import atexit
import io
import os
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any

import openvino
import torch
from torch import nn

from funnel.log import get_logger
from funnel.models import sealed
from funnel.models.worker import model_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

_ONE_AT_A_TIME = threading.Lock()
_ALIVE: "weakref.WeakSet[Compiled]" = weakref.WeakSet()
log = get_logger(__name__)


class Compiled:
    """A network that any number of threads may call at once.

    Args:
        name: where the compiled form is kept; says everything that it depends on.
        settings: OpenVINO's, for the CPU.
        convert: makes the network where nothing is kept.
        example: arrays that it takes, for a first call.
    """

    def __init__(
        self,
        name: str,
        settings: "Mapping[str, str]",
        convert: "Callable[[], Any]",
        example: "Sequence[NDArray[Any]]",
    ) -> None:
        self._local = threading.local()
        self._pid = os.getpid()
        # OpenVINO's binding sets itself up when it first handles arrays, and two threads that do so
        # at once can wait for each other for ever: one holds its guard, the other Python's lock.
        with _ONE_AT_A_TIME:
            self._model = _from_disk(name, settings) or _compiled(name, settings, convert())
            self(example)
        _ALIVE.add(self)

    def __call__(self, inputs: "Sequence[NDArray[Any]]") -> "NDArray[Any]":
        """The first output; good until this thread's next call."""
        # A request can serve one caller at a time, so each thread has its own.
        if not hasattr(self._local, "request"):
            self._local.request = self._model.create_infer_request()
        output: NDArray[Any] = self._local.request.infer(list(inputs))[0]
        return output

    def release(self) -> None:
        """Give the network's threads back; it cannot be called any more.

        A fork of the process that has them does nothing: it would wait for them for ever.
        """
        if os.getpid() != self._pid:
            return
        self._local = threading.local()
        self._model = None


@atexit.register
def _release_all() -> None:
    """Networks go before OpenVINO's own static objects, and after whoever may be calling them."""
    model_worker().close()
    for network in list(_ALIVE):
        network.release()


def converted(module: nn.Module, example: Any) -> Any:
    """OpenVINO's form of a module; an example's lengths are not fixed."""
    _tell_nobody()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its use of torch.jit.trace is not ours to mend
        return openvino.convert_model(module.eval(), example_input=example)


def _tell_nobody() -> None:
    """Else its maker is sent a handful of messages, and for each this process is forked."""
    try:
        from openvino.tools.ovc.telemetry_utils import init_ovc_telemetry
    except ImportError:  # no part of its documented interface
        return
    init_ovc_telemetry().consent = False


def version() -> str:
    """Of the libraries that a compiled form depends on."""
    return f"openvino {openvino.__version__}, torch {torch.__version__}"


def _from_disk(name: str, settings: "Mapping[str, str]") -> Any:
    kept = sealed.read(name)
    if kept is None:
        return None
    try:
        return openvino.Core().import_model(io.BytesIO(kept), "CPU", dict(settings))
    except RuntimeError as error:
        log.warning("compiled_model_refused", error=str(error)[:200], mend="compiled anew")
        return None


def _compiled(name: str, settings: "Mapping[str, str]", model: Any) -> Any:
    compiled = openvino.Core().compile_model(model, "CPU", dict(settings))
    sealed.write(name, compiled.export_model().getvalue())
    return compiled
