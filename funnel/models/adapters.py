"""Adapters: a cross-encoder as a small difference from a base model, kept in one directory.

::

    adapter.json          what it is, which base it belongs to, how its score is put together
    adapter.safetensors   ``NAME.lora_A`` (rank, in) and ``NAME.lora_B`` (out, rank) for every
                          changed matrix, or ``NAME.codes`` and ``NAME.scales`` (four bits), or
                          both, and whole tensors for the head, biases and norms; perhaps a second
                          difference of the same kind under ``encoder.``, and
                          ``maxsim.token_weights`` (vocabulary,), which is not merged
    README.md             the model card

Loading merges it: ``W + D + alpha / rank * B @ A``, so that scoring costs no more than the base.
The score may also weigh in what the base's own vectors say of a pair, and those of an encoder tuned
from it: see :class:`Combination`.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_args

from funnel.errors import ModelError
from funnel.training.output import atomic_directory

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]
    Weights = Mapping[str, torch.Tensor]

FORMAT = 6
_READABLE = (1, 2, 3, 4, 5, 6)
SETTINGS_FILE = "adapter.json"
WEIGHTS_FILE = "adapter.safetensors"
CARD_FILE = "README.md"
MAXSIM_WEIGHTS = "maxsim.token_weights"
"""What each token of the first text counts in MaxSim, special ones too; 1 where it is missing."""

ENCODER = "encoder."
"""What the names of the tuned encoder's tensors begin with."""

Array = TypeVar("Array", bound="NDArray[Any]")
PairOrder: TypeAlias = Literal["given", "both_mean", "both_min"]
"""``given`` scores (a, b) once; the others score both orders and take the mean or the lower."""


@dataclass(frozen=True, slots=True)
class Combination:
    """How one logit is made of the cross-encoder's logit and encoders' similarities.

    ``cross * logit + cosine * cos(a, b) + maxsim * MaxSim(a, b) + tuned * tuned_cos(a, b) + bias``,
    where MaxSim is the mean over the first text's tokens of the highest cosine with a token of the
    second; the first two similarities are the base's own, the third is that of the adapter's tuned
    encoder. A weight of zero means that the part need not be computed at all. MaxSim's mean is
    weighted where the adapter has token weights.

    With a ``ceiling`` the cross-encoder's logit enters as ``-log(1 + exp(c - logit))``, where c is
    ``ceiling + slope * tuned_cos(a, b)``: far below c it counts as before, but above c it adds
    nothing more. So similarities alone say how high a score may be at most; with a ``slope``, the
    less the tuned encoder sees in common, the less a sure cross-encoder can make of it.
    """

    cross: float = 1.0
    cosine: float = 0.0
    maxsim: float = 0.0
    tuned: float = 0.0
    bias: float = 0.0
    order: PairOrder = "given"
    ceiling: float | None = None
    slope: float = 0.0

    @property
    def orders(self) -> int:
        """How many cross-encoder passes a pair takes: 0, 1 or 2."""
        if self.cross == 0.0:
            return 0
        return 1 if self.order == "given" else 2

    @property
    def encoders(self) -> bool:
        """Whether an encoder has to read a pair's texts."""
        return bool(self.cosine or self.maxsim or self.tuned)

    @property
    def has_ceiling(self) -> bool:
        """Whether encoders alone can say how high a score may be at most."""
        return self.ceiling is not None and self.cross > 0.0 and self.encoders

    def logits(
        self,
        cross: "FloatArray | None" = None,
        *,
        cosine: "FloatArray | None" = None,
        maxsim: "FloatArray | None" = None,
        tuned: "FloatArray | None" = None,
    ) -> "FloatArray":
        """Combine the parts of n pairs.

        Args:
            cross: cross-encoder logits, shape (n,), or (2, n) when both orders are scored.
            cosine: cosines of the base's text vectors, shape (n,).
            maxsim: MaxSim of the base's token vectors, shape (n,).
            tuned: cosines of the tuned encoder's text vectors, shape (n,).

        Returns:
            Logits of shape (n,), float32.

        Raises:
            ModelError: a part with a weight is missing.
        """
        import numpy as np

        levelled = None
        if cross is not None:
            levelled = self.levelled(self._one_order(np.asarray(cross, dtype=np.float32)), tuned)
        parts = {"cross": levelled, "cosine": cosine, "maxsim": maxsim, "tuned": tuned}
        total: FloatArray | None = None
        for name, part in parts.items():
            weight = np.float32(getattr(self, name))
            if weight == 0.0:
                continue
            if part is None:
                raise ModelError(f"the score weighs in {name!r} by {weight}, but it was not given")
            term = weight * np.asarray(part, dtype=np.float32)
            total = term if total is None else total + term
        if total is None:
            raise ModelError("every weight of the combination is zero; nothing can be scored")
        return np.asarray(total + np.float32(self.bias), dtype=np.float32)

    def _one_order(self, cross: "FloatArray") -> "FloatArray":
        expected = 1 if self.order == "given" else 2
        if cross.ndim != expected:
            raise ModelError(
                f"cross-encoder logits have shape {cross.shape}; order {self.order!r} needs "
                + ("(n,)" if expected == 1 else "(2, n)")
            )
        if self.order == "given":
            return cross
        lower: FloatArray = cross.min(axis=0) if self.order == "both_min" else cross.mean(axis=0)
        return lower

    def ceilings(self, tuned: Array | None) -> "Array | float | None":
        """Where the cross-encoder's logit levels off, by the tuned encoder's cosines.

        Raises:
            ModelError: it depends on them, and they are missing.
        """
        if self.ceiling is None or not self.slope:
            return self.ceiling
        if tuned is None:
            raise ModelError("the ceiling depends on the tuned encoder's cosine, which is missing")
        kind = tuned.dtype.type
        ceilings: Array = kind(self.ceiling) + kind(self.slope) * tuned
        return ceilings

    def levelled(self, cross: Array, tuned: Array | None = None) -> Array:
        """Logits as they enter the score; both of shape (n,)."""
        ceilings = self.ceilings(tuned)
        return cross if ceilings is None else level_off(cross, ceilings)

    def named(self) -> dict[str, Any]:
        """Its fields, without a ceiling that there is not, or that has no slope."""
        fields_ = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: value for name, value in fields_.items() if value or name != "slope"}


def level_off(logits: Array, ceilings: "Array | float") -> Array:
    """Logits as they are far below their ceilings (less these), and zero far above."""
    import numpy as np

    zero = logits.dtype.type(0)
    levelled: Array = -np.logaddexp(zero, np.asarray(ceilings, logits.dtype) - logits)
    return levelled


@dataclass(frozen=True, slots=True)
class BaseModel:
    """The model an adapter changes: its name and the SHA-256 of its ``model.safetensors``."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Adapter:
    """A difference from a base, and how its scores are meant.

    ``alpha / rank`` scales the low-rank products (both 1 where there are none). ``max_tokens`` is
    the window it was trained with, special tokens included. ``training`` is what its card tells:
    data, settings, figures.
    """

    name: str
    base: BaseModel
    rank: int
    alpha: float
    max_tokens: int
    tensors: "Weights" = field(repr=False)
    combine: Combination = field(default_factory=Combination)
    score_kind: Literal["logit"] = "logit"
    training: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def fixed(self) -> "Weights":
        """The tensors that belong to the score and are no part of the cross-encoder."""
        return {
            name: each
            for name, each in self.tensors.items()
            if name == MAXSIM_WEIGHTS or name.startswith(ENCODER)
        }

    @property
    def encoder(self) -> "Adapter":
        """The difference between the base and the tuned encoder, as an adapter of its own.

        Raises:
            ModelError: the score weighs in such an encoder, but there is none.
        """
        tensors = {
            name.removeprefix(ENCODER): each
            for name, each in self.tensors.items()
            if name.startswith(ENCODER)
        }
        if not tensors:
            raise ModelError(
                f"adapter {self.name!r} weighs in a tuned encoder, but has no tensors under "
                f"{ENCODER!r}; install or train the adapter again"
            )
        return replace(self, tensors=tensors, combine=Combination())

    @property
    def encoder_revision(self) -> str:
        """What identifies the tuned encoder's vectors: a hash of its tensors and of the base."""
        digest = hashlib.sha256(self.base.sha256.encode())
        for name, tensor in sorted(self.encoder.tensors.items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def revision(self) -> str:
        """What identifies its scores: a hash of the weights and of how they are combined."""
        return _revision(self.sha256, self.combine)


def save_adapter(path: Path, adapter: Adapter, *, card: str) -> str:
    """Write the directory whole or not at all; an existing one is replaced.

    Returns:
        The SHA-256 of the weights, which ``adapter.json`` carries.

    Raises:
        ModelError: the disk is full or cannot be written.
    """
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in adapter.tensors.items()}
    weights = save(tensors)
    digest = hashlib.sha256(weights).hexdigest()
    with atomic_directory(path) as staging:
        (staging / WEIGHTS_FILE).write_bytes(weights)
        (staging / SETTINGS_FILE).write_text(_settings_text(adapter, digest), encoding="utf-8")
        (staging / CARD_FILE).write_text(card, encoding="utf-8")
    return digest


def _settings_text(adapter: Adapter, digest: str) -> str:
    settings = {
        "format": FORMAT,
        "name": adapter.name,
        "base": asdict(adapter.base),
        "lora": {"rank": adapter.rank, "alpha": adapter.alpha},
        "max_tokens": adapter.max_tokens,
        "combine": adapter.combine.named(),
        "score_kind": adapter.score_kind,
        "sha256": digest,
        "training": dict(adapter.training),
    }
    return json.dumps(settings, indent=2, ensure_ascii=False) + "\n"


def is_adapter(path: Path) -> bool:
    """Whether a directory says that it is an adapter."""
    return (path / SETTINGS_FILE).is_file()


def read_adapter(path: Path) -> Adapter:
    """Read and verify an adapter.

    Raises:
        ModelError: a file is missing or damaged, or its format is not known here.
    """
    settings, weights = _read_settings(path), _read_bytes(path / WEIGHTS_FILE)
    return _adapter(path, settings, weights, _checked_digest(path, settings, weights))


def adapter_revision(path: Path) -> str:
    """The revision of an adapter, verified, without its tensors.

    Raises:
        ModelError: as :func:`read_adapter`.
    """
    settings, weights = _read_settings(path), _read_bytes(path / WEIGHTS_FILE)
    digest = _checked_digest(path, settings, weights)
    try:
        return _revision(digest, _combination(settings["combine"]))
    except (KeyError, TypeError, ValueError) as problem:
        raise _unusable(path, problem) from problem


def _revision(sha256: str, combine: Combination) -> str:
    parts = f"{sha256}{sorted(combine.named().items())}"
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def _checked_digest(path: Path, settings: dict[str, Any], weights: bytes) -> str:
    digest = hashlib.sha256(weights).hexdigest()
    if digest != settings.get("sha256"):
        raise ModelError(
            f"{path / WEIGHTS_FILE} is damaged: its SHA-256 is {digest}, adapter.json says "
            f"{settings.get('sha256')}; install or train the adapter again"
        )
    return digest


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise ModelError(
            f"cannot read {path}: {problem.strerror}; an adapter is a directory with "
            f"{SETTINGS_FILE} and {WEIGHTS_FILE}"
        ) from problem


def _read_settings(path: Path) -> dict[str, Any]:
    raw = _read_bytes(path / SETTINGS_FILE)
    try:
        settings = json.loads(raw)
    except ValueError as problem:
        raise ModelError(f"{path / SETTINGS_FILE} is damaged, not JSON: {problem}") from problem
    found = settings.get("format") if isinstance(settings, dict) else None
    if not isinstance(settings, dict) or found not in _READABLE:
        raise ModelError(
            f"{path / SETTINGS_FILE} has format {found!r}; this version reads formats 1 to "
            f"{FORMAT}, so upgrade retrieval-funnel or train the adapter again"
        )
    return settings


def _adapter(path: Path, settings: dict[str, Any], weights: bytes, digest: str) -> Adapter:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return Adapter(
            name=str(settings["name"]),
            base=BaseModel(**settings["base"]),
            rank=_at_least_one("lora.rank", settings["lora"]["rank"]),
            alpha=float(settings["lora"]["alpha"]),
            max_tokens=_at_least_one("max_tokens", settings["max_tokens"]),
            tensors=load(weights),
            combine=_combination(settings["combine"]),
            score_kind=settings["score_kind"],
            training=settings.get("training", {}),
            sha256=digest,
        )
    except (KeyError, TypeError, ValueError, SafetensorError) as problem:
        raise _unusable(path, problem) from problem


def _unusable(path: Path, problem: Exception) -> ModelError:
    return ModelError(
        f"{path / SETTINGS_FILE} or its weights cannot be used: "
        f"{type(problem).__name__}: {problem}; install or train the adapter again"
    )


def _at_least_one(name: str, found: Any) -> int:
    number = int(found)
    if number < 1:
        raise ValueError(f"{name} is {found!r}, expected at least 1")
    return number


def _combination(found: Mapping[str, Any]) -> Combination:
    known = {each.name for each in fields(Combination)}
    if unknown := set(found) - known:
        raise ValueError(f"unknown parts of the combination: {sorted(unknown)}")
    combination = Combination(**found)
    for name in ("cross", "cosine", "maxsim", "tuned", "bias", "slope"):
        value = getattr(combination, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{name} is {value!r}, expected a number")
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}, expected a finite number")
    if combination.order not in get_args(PairOrder):
        raise ValueError(f"unknown order {combination.order!r}; known: {get_args(PairOrder)}")
    if combination.ceiling is not None and not math.isfinite(combination.ceiling):
        raise ValueError(f"ceiling is {combination.ceiling}, expected a finite number")
    if combination.slope and (combination.ceiling is None or not combination.tuned):
        raise ValueError("slope without a ceiling, or without the tuned encoder that it is of")
    return combination


def check_base(adapter: Adapter, name: str, sha256: str) -> None:
    """Refuse a base that the adapter was not made for.

    Raises:
        ModelError: names both bases.
    """
    if sha256 != adapter.base.sha256:
        raise ModelError(
            f"adapter {adapter.name!r} belongs to {adapter.base.name} "
            f"(SHA-256 {adapter.base.sha256[:12]}…), but the base given is {name} "
            f"(SHA-256 {sha256[:12]}…); load it over its own base"
        )
