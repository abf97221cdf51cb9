"""A prepared folder in small: made-up texts, pairs and both models with random weights."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, MPNetConfig, MPNetModel

from recipes.distil.prepared import STUDENT_FILE, TEACHER_NAME, TRAIN, Part, Prepared
from recipes.distil.weights import compact, save_in_pieces

ROWS = 60
QUESTIONS = 90
_SIZES: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 12,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
    "initializer_range": 0.3,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def bert() -> Any:
    """With random weights, always the same."""
    torch.manual_seed(1)
    network: Any = BertModel(BertConfig(**_SIZES))
    return network.eval()


def mpnet() -> Any:
    """With random weights, always the same; its near places matter."""
    torch.manual_seed(2)
    network: Any = MPNetModel(MPNetConfig(**_SIZES, layer_norm_eps=1e-5))
    torch.nn.init.normal_(network.encoder.relative_attention_bias.weight)
    return network.eval()


def prepared() -> Prepared:
    """Questions in two wordings each; a pair is a duplicate if both words are of one question."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(3, 9, 2 * QUESTIONS + 30)
    words = [rng.integers(3, ROWS, size) for size in sizes]
    for question in range(QUESTIONS):
        words[2 * question + 1][:3] = words[2 * question][:3]
    flat = np.concatenate(words).astype(np.uint16)
    asked = np.arange(QUESTIONS)
    same = np.stack([2 * asked, 2 * asked + 1])
    other = np.stack([2 * asked, np.roll(2 * asked + 1, 1)])
    trained = np.concatenate([same[:, :60], other[:, :60]], axis=1)
    held = np.concatenate([same[:, 60:], other[:, 61:]], axis=1)
    folds = np.stack([side // 2 % 3 for side in trained], 1).astype(np.int8)
    return Prepared(
        flat,
        sizes.astype(np.int64),
        {TRAIN: _part(trained, 60), "dev": _part(held, 30), "test": _part(held[:, ::-1], 29)},
        ["real", "swap"],
        folds,
        pool=np.arange(120),
        barred=np.array([[3, 0], [7, 90]]),
        others=np.arange(2 * QUESTIONS, 2 * QUESTIONS + 30),
    )


def _part(sides: Any, duplicates: int) -> Part:
    labels = (np.arange(sides.shape[1]) < duplicates).astype(np.float32)
    return Part(sides[0], sides[1], labels, (np.arange(len(labels)) % 2).astype(np.uint8))


def write_prepared(folder: Path) -> Path:
    """Data and both models."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = range(ROWS)
    save_file(compact(bert().state_dict(), rows), folder / STUDENT_FILE)
    save_in_pieces(compact(mpnet().state_dict(), rows), folder, TEACHER_NAME)
    prepared().save(folder)
    return folder
