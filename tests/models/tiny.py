"""Tiny models with random weights, saved as the libraries save real ones."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS: list[str] = [
    *("how", "do", "i", "reset", "my", "password", "open", "a", "new", "account", "close", "the"),
    *("door", "pay", "with", "card", "and", "voucher", "delete", "all", "data", "export", "file"),
]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_PIECES = [*_LETTERS, *"0123456789", *(f"##{letter}" for letter in _LETTERS)]
_BERT: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
}
_DISTILLED: dict[str, Any] = {
    "vocab_size": 160,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 64,
    "max_position_embeddings": 66,
}


def save_tokenizer(folder: Path, *, typed: bool = True) -> None:
    """A WordPiece tokenizer over a few words and all letters."""
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*SPECIAL, *WORDS, *_PIECES]))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 64,
        "model_input_names": [
            "input_ids",
            *(["token_type_ids"] if typed else []),
            "attention_mask",
        ],
        **{f"{token[1:-1].lower()}_token": token for token in SPECIAL},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def save_cross_encoder(folder: Path, *, kind: str = "bert", labels: int = 1) -> Path:
    """A cross-encoder whose weights are random but fixed."""
    torch.manual_seed(1)
    model = _classifier(kind, labels)
    with torch.no_grad():  # random models hardly react to their input; make this one react
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(30.0 if "classifier" in name else 4.0)
    model.save_pretrained(folder)
    save_tokenizer(folder, typed=kind == "bert")
    return folder


def _classifier(kind: str, labels: int) -> Any:
    if kind == "roberta":
        sizes = {**_BERT, "pad_token_id": 0, "type_vocab_size": 1, "num_labels": labels}
        return RobertaForSequenceClassification(RobertaConfig(**sizes))
    if kind == "distilbert":
        sizes = {**_DISTILLED, "num_labels": labels}
        return DistilBertForSequenceClassification(DistilBertConfig(**sizes))
    return BertForSequenceClassification(BertConfig(**{**_BERT, "num_labels": labels}))


def save_headless(folder: Path) -> Path:
    """An encoder without a head, as the start of training."""
    torch.manual_seed(1)
    BertModel(BertConfig(**_BERT)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder
