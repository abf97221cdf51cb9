"""A caller that leaves while its texts are being prepared, and what must not happen afterwards."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from funnel.models.worker import ModelWorker


class Held:
    """Stands before a model and keeps one of its methods waiting until it is let go."""

    def __init__(self, model: Any, method: str) -> None:
        self._model, self._method = model, method
        self.begun, self.go_on, self.done = threading.Event(), threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._model, name)
        return self._later(real) if name == self._method else real

    def _later(self, real: Any) -> Any:
        def run(*args: Any) -> Any:
            self.begun.set()
            self.go_on.wait(10)
            try:
                return real(*args)
            finally:
                self.done.set()

        return run


async def leaves_no_work(call: Coroutine[Any, Any, Any], held: Held, worker: ModelWorker) -> None:
    """Cancel the call while the method is held; nothing may reach the worker then or later."""
    task = asyncio.create_task(call)
    await asyncio.to_thread(held.begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    held.go_on.set()
    await asyncio.to_thread(held.done.wait, 10)
    await asyncio.sleep(0.2)
    assert not worker._threads  # they are started by the first job
    worker.close()
