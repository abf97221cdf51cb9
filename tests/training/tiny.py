"""A BERT of a few thousand parameters with a word-level vocabulary, made on the spot."""

from pathlib import Path

WORDS = (*"abcdefghijklmnopqrstuvwxyz", "find", "about", "not", "how", "what", "the")
NAMES = ("alpha", "beta", "gamma", "delta", "zeta", "eta", "theta", "iota", "kappa", "lambda")


def tiny_bert(folder: Path) -> Path:
    """Save an encoder without a head: 2 layers, 32 dimensions, seeded."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *NAMES,
        *map(str, range(10)),
    ]
    pieces = [f"##{digit}" for digit in range(10)]
    (folder / "vocab.txt").write_text("\n".join([*vocabulary, *pieces]), encoding="utf-8")
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"), model_max_length=64)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary) + len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.1,  # the usual 0.02 hardly lets words through so narrow a network
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_encoder(folder: Path) -> Path:
    """Save the same network as a sentence-transformers encoder with mean pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    network = Transformer(str(tiny_bert(folder.with_name(f"{folder.name}-network"))))
    pooling = Pooling(network.get_embedding_dimension(), pooling_mode="mean")
    model = SentenceTransformer(modules=[network, pooling, Normalize()], device="cpu")
    model.save(str(folder), create_model_card=False)
    return folder
