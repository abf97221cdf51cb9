"""An encoder's layers through OpenVINO, where that is faster than torch and gives the same vectors.

A query's embedding is little work for one thread: a good part of its time goes into starting some
eighty small operations, on one core. Compiled as a whole it runs on all of them. Batches of
documents gain less. Imports torch: import lazily.
"""

import hashlib
import importlib.util
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # torch's own spelling

from funnel.log import get_logger
from funnel.models import sealed
from funnel.models.bert import Batch, collate
from funnel.models.hardware import available_cores, cpu_flags, set_torch_threads
from funnel.models.turn import measuring

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from funnel.models.bert import Bert

    FloatArray = NDArray[np.float32]
    Way = Callable[[Batch], FloatArray]

MAX_DIFFERENCE = 1e-5
"""Of any number of a unit vector from torch's in float32: far below what separates two ranks."""
WORTHWHILE = 0.98
"""Share of torch's time at which a change is worth it."""
_SINGLE_PROBES = ((5,), (10,), (20,), (40,))
_BATCH_PROBES = ((30, 32) * 8, (63, 64) * 4)
_ROUNDS = 3
_HIDDEN = -1e9
Kinds: TypeAlias = "dict[str, Comparison]"
log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Milliseconds for all probes together, and the largest difference of a vector's numbers."""

    torch_ms: float
    openvino_ms: float
    difference: float

    @property
    def openvino_wins(self) -> bool:
        """Whether it is faster and gives the same vectors."""
        return self.difference <= MAX_DIFFERENCE and self.openvino_ms < WORTHWHILE * self.torch_ms

    def __str__(self) -> str:
        name = "openvino" if self.openvino_wins else "torch"
        times = f"openvino {self.openvino_ms:.1f} ms, torch {self.torch_ms:.1f} ms"
        return f"{name} ({times}, vectors differ by {self.difference:.0e})"


@dataclass(frozen=True, slots=True)
class Ways:
    """What turns one text (all cores) and a batch of several (a core each) into unit vectors.

    Each takes padded ids and returns (rows, dim). ``reason`` says what they are, and why.
    """

    single: "Way"
    several: "Way"
    reason: str = "torch"


def choose_ways(running: "Bert", plain: "Bert", by_torch: "Way", revision: str) -> Ways:
    """The faster of torch and OpenVINO for each kind of work; torch where OpenVINO is absent.

    Measured once for a machine, a model and the libraries' versions, then remembered.

    Args:
        running: the network in use, in float32; its embeddings are shared.
        plain: the same with layers that are not packed, to compile.
        by_torch: what OpenVINO must agree with.
        revision: names the weights.
    """
    if importlib.util.find_spec("openvino") is None:
        return Ways(by_torch, by_torch)
    key = _key(revision)
    streams = {"single": 1, "several": available_cores()}
    try:
        found = _kept(key)
        if found is None:
            with measuring():
                found = _kept(key) or _measured(running, plain, by_torch, key, streams)
        chosen = {
            kind: OpenVinoEncoder(running, plain, key, streams[kind])
            for kind, comparison in found.items()
            if comparison.openvino_wins
        }
    except Exception as error:  # OpenVINO has errors of its own; any means "not this"
        log.warning("openvino_encoder_failed", error=str(error)[:200], mend="torch embeds")
        return Ways(by_torch, by_torch)
    finally:
        _converted.cache_clear()
    reason = "; ".join(f"{kind}: {comparison}" for kind, comparison in found.items())
    return Ways(chosen.get("single", by_torch), chosen.get("several", by_torch), reason)


def compare(by_torch: "Way", other: "Way", probes: "Sequence[Batch]") -> Comparison:
    """Time both ways in turns, and compare what they give."""
    times: dict[Way, list[float]] = {by_torch: [], other: []}
    for _ in range(_ROUNDS):
        for way, seconds in times.items():
            began = time.perf_counter()
            for batch in probes:
                way(batch)
            seconds.append(time.perf_counter() - began)
    difference = max(float(np.abs(by_torch(batch) - other(batch)).max()) for batch in probes)
    torch_ms, openvino_ms = (1000 * float(np.median(times[way])) for way in (by_torch, other))
    return Comparison(torch_ms, openvino_ms, difference)


class OpenVinoEncoder:
    """The layers and the mean, compiled; the embeddings stay where torch holds them anyway.

    Args:
        running: the network in use, in float32; its embeddings are shared.
        plain: the same with layers that are not packed, to compile.
        key: names the weights and what compiles them.
        streams: calls that run at once; the cores are divided among them.
    """

    def __init__(self, running: "Bert", plain: "Bert", key: str, streams: int) -> None:
        from funnel.models.openvino_compiled import Compiled

        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": str(available_cores()),
        }
        name = f"openvino/encoder-{key}-{streams}.blob"
        arrays = [each.numpy() for each in _example(plain).values()]
        self._network = running
        self._vectors = Compiled(name, settings, lambda: _converted(plain), arrays)

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> "FloatArray":
        """The unit vectors (rows, dim) of padded ids."""
        where = torch.arange(batch.ids.shape[1])
        x = self._network.norm(self._network.words(batch.ids) + self._network.positions(where))
        inside = (where < batch.lengths[:, None]).float()
        mask = ((1 - inside) * _HIDDEN)[:, None, None, :]
        share = (inside / batch.lengths[:, None])[:, :, None]
        vectors: FloatArray = self._vectors([x.numpy(), mask.numpy(), share.numpy()])
        return vectors.copy()


class _Layers(nn.Module):
    """From embeddings to the unit mean of the last states."""

    def __init__(self, network: "Bert") -> None:
        super().__init__()
        self.layers = network.layers

    def forward(self, x: Tensor, mask: Tensor, share: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask, False)
        return F.normalize((x * share).sum(1), dim=-1)


def _example(plain: "Bert") -> dict[str, Tensor]:
    return {
        "x": torch.zeros(2, 8, plain.words.embedding_dim),
        "mask": torch.zeros(2, 1, 1, 8),
        "share": torch.zeros(2, 8, 1),
    }


@lru_cache(maxsize=1)
def _converted(plain: "Bert") -> Any:
    """OpenVINO's form, which is compiled twice: for one text at a time, and for several."""
    from funnel.models.openvino_compiled import converted

    return converted(_Layers(plain), _example(plain))


def _measured(
    running: "Bert", plain: "Bert", by_torch: "Way", key: str, streams: "dict[str, int]"
) -> Kinds:
    probes = {"single": _SINGLE_PROBES, "several": _BATCH_PROBES}

    def measure(kind: str) -> Comparison:
        encoder = OpenVinoEncoder(running, plain, key, streams[kind])
        return compare(by_torch, encoder, [_probe(running, each) for each in probes[kind]])

    found = {kind: _in_own_thread(partial(measure, kind)) for kind in probes}
    content = {kind: asdict(comparison) for kind, comparison in found.items()}
    sealed.write(_file(key), json.dumps(content).encode())
    for kind, comparison in found.items():
        wins = comparison.openvino_wins
        log.info("encoder_measured", kind=kind, **asdict(comparison), openvino=wins)
    return found


def _kept(key: str) -> "Kinds | None":
    content = sealed.read(_file(key))
    if content is None:
        return None
    try:
        return {kind: Comparison(**row) for kind, row in json.loads(content).items()}
    except (ValueError, TypeError, AttributeError) as error:
        log.warning("calibration_refused", error=str(error), mend="it is measured anew")
        return None


def _file(key: str) -> str:
    return f"calibration/encoder-{key}.json"


def _key(revision: str) -> str:
    from funnel.models.openvino_compiled import version

    text = repr((revision, version(), available_cores(), sorted(cpu_flags()), 3))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _probe(network: "Bert", lengths: "Sequence[int]") -> Batch:
    draw = np.random.default_rng(0)
    words, window = network.words.num_embeddings, network.positions.num_embeddings
    rows = [draw.integers(words, size=min(length, window)).tolist() for length in lengths]
    return collate(rows, [0] * len(rows))


def _in_own_thread(act: "Callable[[], Comparison]") -> Comparison:
    """Run where torch's thread count can be set without touching the caller's."""

    def run() -> Comparison:
        set_torch_threads(1)
        return act()

    with ThreadPoolExecutor(1, thread_name_prefix="funnel-calibration") as executor:
        return executor.submit(run).result()
