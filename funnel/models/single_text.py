"""One text at a time through OpenVINO, where that is faster than torch: a query's embedding.

A single query is little work for a batch's thread: a good part of its time goes into starting some
eighty small operations, on one core. Compiled as a whole it runs on all of them. Imports torch:
import lazily.
"""

import hashlib
import importlib.util
import io
import json
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own spelling

from funnel.log import get_logger
from funnel.models import sealed
from funnel.models.hardware import cpu_flags
from funnel.models.worker import available_cores, set_torch_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from funnel.models.bert import Bert

    FloatArray = NDArray[np.float32]
    Way = Callable[[Tensor], FloatArray]

MAX_DIFFERENCE = 1e-5
"""Of any number of a unit vector from torch's in float32: far below what separates two ranks."""
WORTHWHILE = 0.9
_LENGTHS = (5, 10, 20, 40)
_ROUNDS = 10
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Milliseconds for one text of each probed length together, and the largest difference."""

    torch_ms: float
    openvino_ms: float
    difference: float

    @property
    def openvino_wins(self) -> bool:
        """Whether it is faster and gives the same vectors."""
        return self.difference <= MAX_DIFFERENCE and (self.openvino_ms < WORTHWHILE * self.torch_ms)


def open_single(running: "Bert", plain: "Bert", by_torch: "Way", revision: str) -> "Way | None":
    """What turns the ids of one text, int64 (1, length), into its vector (1, dim).

    None where torch does it best or OpenVINO is absent. Measured once for a machine, a model and
    the libraries' versions, then remembered.

    Args:
        running: the network in use, in float32; its embeddings are shared.
        plain: the same with layers that are not packed, to compile.
        by_torch: what it must agree with.
        revision: names the weights.
    """
    if importlib.util.find_spec("openvino") is None:
        return None
    key = _key(revision)
    name = f"calibration/single-{key}.json"
    if (kept := _kept(name)) is not None:
        return OpenVinoSingle(running, plain, key) if kept.openvino_wins else None
    try:
        single = OpenVinoSingle(running, plain, key)
        found = _in_own_thread(lambda: compare(by_torch, single, _probes(running)))
    except Exception as error:  # OpenVINO has errors of its own; any means "not this"
        log.warning("single_text_failed", error=str(error)[:200], mend="torch embeds queries")
        return None
    sealed.write(name, json.dumps(asdict(found)).encode())
    log.info("single_text_measured", **asdict(found), openvino=found.openvino_wins)
    return single if found.openvino_wins else None


def compare(by_torch: "Way", single: "Way", probes: list[Tensor]) -> Comparison:
    """Time both ways in turns, and compare what they give."""
    times: dict[Way, list[float]] = {by_torch: [], single: []}
    for _ in range(_ROUNDS):
        for way, seconds in times.items():
            began = time.perf_counter()
            for ids in probes:
                way(ids)
            seconds.append(time.perf_counter() - began)
    difference = max(float(np.abs(by_torch(ids) - single(ids)).max()) for ids in probes)
    torch_ms, openvino_ms = (1000 * float(np.median(times[way])) for way in (by_torch, single))
    return Comparison(torch_ms, openvino_ms, difference)


class OpenVinoSingle:
    """The layers and the mean, compiled; the embeddings stay where torch holds them anyway."""

    def __init__(self, running: "Bert", plain: "Bert", key: str) -> None:
        self._network = running
        self._compiled = _compiled(_Layers(plain), key)
        self._local = threading.local()

    @torch.inference_mode()
    def __call__(self, ids: Tensor) -> "FloatArray":
        """The unit vector (1, dim) of one text's ids, int64 (1, length)."""
        where = torch.arange(ids.shape[1])
        embedded = self._network.norm(self._network.words(ids) + self._network.positions(where))
        vector: FloatArray = self._request().infer([embedded.numpy()])[0]
        return vector.copy()

    def _request(self) -> Any:
        # A request can serve one caller at a time, so each worker thread has its own.
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        return self._local.request


class _Layers(nn.Module):
    """From embeddings to the unit mean of the last states; one text has no padding to mask."""

    def __init__(self, network: "Bert") -> None:
        super().__init__()
        self.layers = network.layers

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, None, False)
        return F.normalize(x.mean(1), dim=-1)


def _compiled(layers: nn.Module, key: str) -> Any:
    """From disk if this machine and version compiled it before."""
    import openvino

    cores = str(available_cores())
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": cores,
    }
    core = openvino.Core()
    name = f"openvino/single-{key}.blob"
    kept = sealed.read(name)
    if kept is not None:
        try:
            return core.import_model(io.BytesIO(kept), "CPU", settings)
        except RuntimeError as error:
            log.warning("compiled_model_refused", error=str(error)[:200], mend="compiled anew")
    hidden = next(layers.parameters()).shape[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its use of torch.jit.trace is not ours to mend
        converted = openvino.convert_model(layers.eval(), example_input=torch.zeros(2, 8, hidden))
    compiled = core.compile_model(converted, "CPU", settings)
    sealed.write(name, compiled.export_model().getvalue())
    return compiled


def _key(revision: str) -> str:
    versions = (version("openvino"), torch.__version__)
    text = repr((revision, versions, available_cores(), sorted(cpu_flags()), 1))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _kept(name: str) -> Comparison | None:
    content = sealed.read(name)
    try:
        return None if content is None else Comparison(**json.loads(content))
    except (ValueError, TypeError) as error:
        log.warning("calibration_refused", error=str(error), mend="it is measured anew")
        return None


def _probes(network: "Bert") -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    words = network.words.num_embeddings
    return [torch.randint(words, (1, length), generator=generator) for length in _LENGTHS]


def _in_own_thread(act: "Callable[[], Comparison]") -> Comparison:
    """Run where torch's thread count can be set without touching the caller's."""

    def run() -> Comparison:
        set_torch_threads(1)
        return act()

    with ThreadPoolExecutor(1, thread_name_prefix="funnel-calibration") as executor:
        return executor.submit(run).result()
