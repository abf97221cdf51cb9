"""ColBERT models: an encoder whose token vectors go through a projection of their own.

Two kinds of folders are known: PyLate's (a sentence-transformers folder with a Dense module right
after the transformer), and Stanford's (``linear.weight`` beside the encoder's own tensors). Query
and document are read alike, but for prompts that the folder declares: other markers before them and
the query's padding are left out. Imports torch: import lazily.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # torch's own spelling

from funnel.errors import ModelError
from funnel.models.bert import collate, embedding_rows, read_config, read_json
from funnel.models.cross_networks import from_folder, window
from funnel.models.representations import Representation
from funnel.models.source import ModelSource
from funnel.models.tokens import TextTokenizer, Tokens, prompted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

_WEIGHT, _BIAS = "linear.weight", "linear.bias"
_OWN = ("linear.", "residual.")


def token_projection(folder: Path) -> Tensor | None:
    """The matrix (out, in) that each token's state goes through; None if this is no ColBERT.

    Raises:
        ModelError: what follows the transformer is more than one matrix.
    """
    modules = _modules(folder)
    if not modules:
        found = _tensors(folder)
        if {_WEIGHT, _BIAS} <= found.keys():
            raise ModelError(
                f"model {str(folder)!r}: got tensors {', '.join(sorted(found))} beside the "
                f"encoder, expected {_WEIGHT} alone; take a ColBERT model with a single projection"
            )
        return found[_WEIGHT] if set(found) == {_WEIGHT} else None
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    if kinds[1:2] != ["Dense"]:
        return None
    dense = folder / str(modules[1].get("path"))
    settings, tensors = _object(dense / "config.json"), _tensors(dense)
    activation = str(settings.get("activation_function", "Identity")).rsplit(".", 1)[-1]
    plain = activation == "Identity" and not settings.get("use_residual")
    rest = [kind for kind in kinds[2:] if kind != "Normalize"]
    if rest or modules[0].get("path") or not plain or set(tensors) != {_WEIGHT}:
        raise ModelError(
            f"model {str(folder)!r}: got token vectors that go through {', '.join(kinds[1:])} "
            f"(activation {activation}, tensors {', '.join(sorted(tensors))}), expected one Dense "
            "of one matrix without bias; take a ColBERT model with a single projection"
        )
    return tensors[_WEIGHT]


class ColbertEncoder:
    """Token vectors through transformers and the projection; a text as a whole has no vector."""

    def __init__(
        self, source: ModelSource, projection: Tensor, max_tokens: int | None = None
    ) -> None:
        self.key = f"{source.revision}:colbert" + (f":{max_tokens}" if max_tokens else "")
        self.dim = int(projection.shape[0])
        self.max_tokens = window(source.folder, max_tokens)
        self._name = source.name
        self._projection = projection.float()
        self._tokenizer = TextTokenizer(source.folder, self.max_tokens)
        self._model = _transformer(source)
        if rows := embedding_rows(read_config(source.folder)):
            self._tokenizer.check_fits(source.name, rows)
        self._pad = int(getattr(self._model.config, "pad_token_id", 0) or 0)

    @property
    def choice(self) -> str:
        """What computes the vectors, and why."""
        return "transformers and a projection, as it is a ColBERT"

    def warm_up(self) -> None:
        """Nothing to choose: there is one way."""

    def tokenize(self, texts: Sequence[str], prompt: str | None = None) -> list[Tokens]:
        """Tokens of each text behind the prompt, cut to the window."""
        return self._tokenizer.singles(prompted(texts, prompt))

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special ones included, uncut."""
        overhead = self._tokenizer.single_overhead
        return [len(ids) + overhead for ids in self._tokenizer.ids(texts, whole=True)]

    def pooled(self, batch: Sequence[Tokens]) -> "FloatArray":  # noqa: ARG002
        """Refused: it was not made for that.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            f"model {self._name!r}: got a ColBERT, expected an encoder of whole texts; it makes "
            "vectors of tokens only: name it as the model of a late_interaction stage"
        )

    @torch.inference_mode()
    def representations(self, batch: Sequence[Tokens]) -> list[Representation]:
        """Each text's token vectors, and their mean."""
        inputs = collate([each.ids for each in batch], [0] * len(batch))
        inside = torch.arange(inputs.ids.shape[1]) < inputs.lengths.unsqueeze(1)
        ids = inputs.ids.masked_fill(~inside, self._pad)
        states = self._model(input_ids=ids, attention_mask=inside.long()).last_hidden_state
        vectors = F.normalize(states.float() @ self._projection.T, dim=-1)
        return [_representation(row, each) for row, each in zip(vectors, batch, strict=True)]


def _representation(row: Tensor, tokens: Tokens) -> Representation:
    kept = row[: len(tokens)]
    mean = F.normalize(kept.mean(0), dim=-1)
    return Representation(mean.numpy(), kept.numpy().copy(), tokens.truncated)


def _transformer(source: ModelSource) -> Any:
    from transformers import AutoModel

    model, report = from_folder(AutoModel, source)
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))
    if missing:  # a pooler reads no token's vector
        raise ModelError(
            f"model {source.name!r}: {len(missing)} tensors not found, {missing[0]} among them, so "
            "its vectors would be random; its weights do not fit its config"
        )
    return model.float().eval()


def _modules(folder: Path) -> list[dict[str, Any]]:
    modules = read_json(folder / "modules.json")
    found = modules if isinstance(modules, list) else []
    return [module for module in found if isinstance(module, dict)]


def _object(file: Path) -> dict[str, Any]:
    found = read_json(file)
    return found if isinstance(found, dict) else {}


def _tensors(folder: Path) -> dict[str, Tensor]:
    """A projection's tensors among all of a folder, whose own are not read."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Tensor] = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                names = [name for name in file.keys() if name.startswith(_OWN)]  # noqa: SIM118
                found |= {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"model {str(folder)!r}: its weights are damaged: {error}") from error
    return found
