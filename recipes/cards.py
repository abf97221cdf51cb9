"""The two model cards, written from what a run measured."""

from collections.abc import Mapping, Sequence

from funnel.models.adapters import Adapter

Figures = Mapping[str, Mapping[str, float]]

_DUPLICATE_DATA = """\
| data | use | terms |
|---|---|---|
| Quora question pairs (from the GPTCache and CS224N repositories) | training, held-out parts | \
Quora terms, non-commercial |
| Quora duplicates from paraphrase-generation repositories | training | Quora terms |
| clinc150, training requests of every other intent | training | CC BY 3.0 |
| edits of those questions made by `funnel.training.augment` | training, held-out parts | as the \
questions |
| SQuAD's questions: edits, and pairs about one sentence | training, a little | CC BY-SA |
| MRPC train, STS benchmark train | training, a little | Microsoft research licence; CC BY-SA |
| groups of queries and near misses, written for this project by a language model \
(`recipes/written/`) | training, topics held out | as the project |
| pairs of near questions among these, mined; labelled by the teachers alone | training | as the \
questions |
| sentences of film descriptions, SQuAD, TREC DL21 and SciFact; claims of Climate-FEVER | the \
tuned encoder, without labels | CC BY-SA; CC BY-SA; MS MARCO, non-commercial; CC BY-NC; unstated |

Teacher: all-mpnet-base-v2 (Apache-2.0), fine-tuned on the labelled pairs as an encoder and as three
cross-encoders; it is no part of this package. Both models have themselves seen Quora duplicates.
None of the data is part of this package; only the written groups are part of its repository."""

_RELEVANCE_DATA = """\
| data | use | terms |
|---|---|---|
| TREC DL21, SciFact (100 training queries), WikiQA (150 training questions) | tokens' \
document frequencies, spreads, calibration | MS MARCO, non-commercial; CC BY-NC; \
Microsoft research licence |
| TREC DL20, SciFact test, Cranfield | measured only | MS MARCO, non-commercial; CC BY-NC; \
classic collection |

None of the data is part of this package."""

_DUPLICATE_NOTES = """\
The cross-encoder and the tuned encoder are students of large models ("Distilling the knowledge in a
neural network", Hinton et al., 2015). Each of three large cross-encoders was trained without the
questions of one third of the pairs and says what it thinks of those; two of them say it of every
mined pair. Students learn these probabilities: alone for mined pairs, beside the label for
labelled ones, half and half where labels are noisy. The encoder also learns the similarities that
the large one sees.

"Quora, question-disjoint" shares no question with training, through any chain of pairs; "questions
of no other pair" are those of its pairs that share none with any pair. Of
`qqp/dev` no pair was trained on, but most of its questions occur in training pairs. Quora's labels
are noisy:
several of the most confident errors are pairs that a reader would call duplicates, which pulls
recall at high precision down. The base has seen Quora duplicates, too. The edited part uses the
same edits as training, on other questions. PAWS-QQP and the published medical pairs were not
at hand. In their manner a language model, which saw neither the project nor its data, wrote 254
pairs of scrambled questions and 218 of patients' questions: each rewritten in very different words,
and a related one that shares its key words (so that the base's cosine is below chance; of the
published pairs it has .885)."""

_RELEVANCE_NOTES = """\
No cross-encoder is part of it: a residual beside these similarities was trained and gained nothing
in the time there was (`recipes/README.md`). So it is late interaction with calibrated weights, and
after a `late_interaction` stage it can add little. In MaxSim a token of the query counts by its
inverse document frequency on top of an equal share. Cosine, MaxSim and MaxSim by rarity have equal
shares of the score's spread: weights fitted to the development sets were better there and worse on
DL20. That was seen on the test sets, so differences of .01 between the rows say little."""


def duplicate_card(adapter: Adapter) -> str:
    """What it does, from what it was made, how good it is, where it fails."""
    figures: Figures = adapter.training["figures"]
    return (
        "\n\n".join(
            [
                _opening(adapter, "Do two questions ask the same?"),
                _score(adapter),
                f"## Data\n\n{_DUPLICATE_DATA}",
                f"## Figures\n\n{pair_table(figures)}",
                _DUPLICATE_NOTES,
                *_training(adapter),
            ]
        )
        + "\n"
    )


def relevance_card(adapter: Adapter) -> str:
    """What it does, from what it was made, how good it is, where it fails."""
    figures: Figures = adapter.training["figures"]
    return (
        "\n\n".join(
            [
                _opening(adapter, "Does a passage answer a query?"),
                _score(adapter),
                f"## Data\n\n{_RELEVANCE_DATA}",
                f"## Figures\n\nnDCG@10.\n\n{ranking_table(figures)}",
                _RELEVANCE_NOTES,
                *_training(adapter),
            ]
        )
        + "\n"
    )


def _opening(adapter: Adapter, question: str) -> str:
    return (
        f"---\nbase_model: sentence-transformers/{adapter.base.name}\n"
        "tags: [retrieval-funnel]\n---\n\n"
        f"# embedded:{adapter.name}\n\n{question} An adapter over {adapter.base.name} "
        f"(SHA-256 `{adapter.base.sha256}`), merged when it is loaded."
    )


def _score(adapter: Adapter) -> str:
    combine = adapter.combine
    logit = "cross-encoder"
    if combine.ceiling is not None:
        slope = f" + {combine.slope:g} · cosine of the tuned encoder" if combine.slope else ""
        logit = f"(-log(1 + exp({combine.ceiling:g}{slope} - cross-encoder)))"
    parts = {
        logit: combine.cross,
        "cosine": combine.cosine,
        "cosine of the tuned encoder": combine.tuned,
        "MaxSim": combine.maxsim,
    }
    terms = [f"{weight:.2f} · {name}" for name, weight in parts.items() if weight]
    return (
        f"The score is a logit: {' + '.join(terms)} {combine.bias:+.2f}; its sigmoid is calibrated "
        f"on held-out pairs. Order of the texts: `{combine.order}`. "
        f"Window: {adapter.max_tokens} tokens."
    )


def _training(adapter: Adapter) -> Sequence[str]:
    rest = {name: value for name, value in adapter.training.items() if name != "figures"}
    rows = "\n".join(f"| {name} | {value} |" for name, value in rest.items())
    return [f"## Training\n\nRecipe: `recipes/`.\n\n| | |\n|---|---|\n{rows}"] if rest else []


def pair_table(figures: Figures) -> str:
    """One row for each set and scorer."""
    columns = ("auc", "ap", "recall@fpr1%", "recall@p95", "recall@p99")
    head = "| held-out set | AUC | AP | recall at 1% FPR | at 95% precision | at 99% |"
    rows = [
        f"| {name} | " + " | ".join(f"{values[column]:.3f}" for column in columns) + " |"
        for name, values in figures.items()
        if "auc" in values
    ]
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def ranking_table(figures: Figures) -> str:
    """One row for each reranker, one column for each set."""
    names = list(next(iter(figures.values())))
    head = "| reranker | " + " | ".join(figures) + " |"
    rows = [
        f"| {name} | " + " | ".join(f"{values[name]:.3f}" for values in figures.values()) + " |"
        for name in names
    ]
    return "\n".join([head, "|---|" + "---|" * len(figures), *rows])
