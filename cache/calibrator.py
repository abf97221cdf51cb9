"""The calibrator file: which score of which verifier means "the same question", and the evidence.

JSON, written by ``funnel cache calibrate`` and named by ``cache.calibrator`` in the YAML. It holds
for one revision of one verifier, for one embedder, whose cosines decide what is verified, and for
the guards that stood before it: a mismatch leaves the cache with its exact tiers only.
"""

import hashlib
import json
import os
import secrets
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from funnel.cache.guards import Margins
from funnel.cache.settings import GuardSettings
from funnel.errors import ConfigError

SHIPPED = {False: "calibrator-duplicate.json", True: "calibrator-duplicate-whole.json"}
"""Whether ``guards.whole_answer`` stood before the verifier -> the file."""


class CertifiedPoint(BaseModel):
    """One certified threshold; see :class:`funnel.cache.calibration.Certificate`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: float = Field(gt=0, lt=1)
    threshold: float = Field(allow_inf_nan=False)
    accepted: int = Field(ge=1)
    wrong: int = Field(ge=0)
    precision_low: float
    recall: float


class Calibrator(BaseModel):
    """What ``funnel cache calibrate`` found.

    ``points`` are certified independently of each other, each at ``confidence``. ``floor`` is the
    cosine below which no candidate is verified, ``scripts`` the Unicode scripts that the pairs
    were written in, ``languages`` English if they are English, ``prevalence`` the share of
    duplicates it was weighted to (None: the pairs' own). ``source`` says where the pairs come from.
    Older files do not know ``languages``, ``embedder_revision`` and ``guards_version``, and were
    made with all guards.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = Field(default=1, ge=1, le=1)
    verifier: str
    revision: str
    embedder: str
    embedder_revision: str = ""
    floor: float = Field(ge=-1, le=1)
    guards: GuardSettings = GuardSettings()
    guards_version: str = ""
    margins: Margins = Margins()
    scripts: tuple[str, ...] = ()
    languages: tuple[Literal["en"], ...] = ()
    confidence: float = Field(gt=0, lt=1)
    prevalence: float | None = None
    pairs: int
    duplicates: int
    source: str
    made: str
    points: tuple[CertifiedPoint, ...]

    @classmethod
    def load(cls, path: Path) -> "Calibrator":
        """Read a calibrator file.

        Raises:
            ConfigError: missing, not JSON, or not a calibrator.
        """
        try:
            return cls._parse(path.read_text("utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"cache.calibrator: {path} cannot be read ({error}); "
                "make it with: funnel cache calibrate PAIRS --out FILE"
            ) from error

    @classmethod
    def shipped(cls, *, whole_answer: bool = False) -> "Calibrator":
        """The calibrator of the verifier that comes with this package, by the guard before it."""
        name = SHIPPED[whole_answer]
        return cls._parse(files("funnel.cache").joinpath(name).read_text("utf-8"), name)

    @classmethod
    def _parse(cls, text: str, name: str) -> "Calibrator":
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ConfigError(
                f"cache.calibrator: {name}: {place}: {first['msg']}; make a calibrator with: "
                "funnel cache calibrate PAIRS --out FILE"
            ) from error

    def save(self, path: Path) -> None:
        """Write the file in one step, so that no reader sees half of it.

        Raises:
            ConfigError: there can be no such file.
        """
        check_target(path)
        text = json.dumps(self.model_dump(mode="json"), indent=2) + "\n"
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            draft.write_text(text, encoding="utf-8")
            draft.chmod(0o644)
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise _unwritable(path, error) from error

    def is_of_embedder(self, name: str, revision: str) -> bool:
        """Whether its floor is one of this embedder's cosines; by the weights, if it knows them."""
        if self.embedder_revision:
            return self.embedder_revision == revision
        return self.embedder == name

    def point(self, target: float) -> CertifiedPoint | None:
        """The loosest threshold certified for at least ``target``, or None."""
        fit = [point for point in self.points if point.target >= target - 1e-9]
        return min(fit, key=lambda point: point.threshold, default=None)

    @property
    def digest(self) -> str:
        """Changes with anything in the file: part of every entry's partition."""
        plain: dict[str, Any] = self.model_dump(mode="json")
        return hashlib.blake2b(
            json.dumps(plain, sort_keys=True).encode(), digest_size=8
        ).hexdigest()


def check_target(path: Path) -> None:
    """Make the folder of a calibrator file, before hours of scoring whose result it is to hold.

    Raises:
        ConfigError: there can be no such file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    if path.is_dir():
        raise ConfigError(f"{path}: got a folder, expected the name of a calibrator file")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{path}: its folder cannot be written to; name a file elsewhere")


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path}: cannot be written ({error.strerror or error}); name a file elsewhere"
    )
