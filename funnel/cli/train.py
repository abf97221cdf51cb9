"""``funnel train``: fine-tune, distil, mine and judge the models of a funnel."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from funnel.cli.options import JSON_OUT
from funnel.cli.train_inputs import encoder, read_distillation, read_pairs, scorer, taught_pairs
from funnel.cli.train_options import (
    ON_BAD_LINE,
    bad_line_choice,
    run_options,
    train_settings,
    with_options,
)
from funnel.training.losses import PairLoss, ScoreScale
from funnel.training.settings import RunOptions, TrainSettings

if TYPE_CHECKING:
    from funnel.training.report import TrainReport

app = typer.Typer(
    help="Fine-tune, distil, mine and judge the funnel's models on your own data.",
    no_args_is_help=True,
)

DATA = Annotated[str, typer.Argument(help="JSONL, CSV or TSV; example:NAME for data that ships.")]
DEV = Annotated[
    Path | None, typer.Option(help="Held-out data of your own, instead of a share of DATA.")
]
FORM = Annotated[
    str,
    typer.Option(help="model: a plain directory; adapter: a small difference from the base; auto."),
]
RESIDUAL = Annotated[
    bool,
    typer.Option(
        "--residual", help="Add the base's own cosine and MaxSim, fixed, and train the rest."
    ),
]
TEACHER = Annotated[
    str | None, typer.Option(help="Cross-encoder that scores DATA first; else DATA has scores.")
]
SCALE = Annotated[
    ScoreScale, typer.Option(help="What the teacher's scores are: probability or logit.")
]


@app.command("cross-encoder")
@with_options(run_options, train_settings)
def cross_encoder(
    run_options: RunOptions,
    train_settings: TrainSettings,
    data: DATA,
    base: Annotated[str, typer.Option(help="Model to start from.")] = "embedded:duplicate",
    loss: Annotated[
        PairLoss, typer.Option(help="bce: labels 0 and 1; mse: a teacher's soft scores.")
    ] = "bce",
    teacher: TEACHER = None,
    scale: SCALE = "probability",
    residual: RESIDUAL = False,
    form: FORM = "auto",
    dev: DEV = None,
    on_bad_line: ON_BAD_LINE = "fail",
    json_out: JSON_OUT = False,
) -> None:
    """Fine-tune a cross-encoder on (query, document, label) rows."""
    from funnel.training.cross_encoder import train_cross_encoder
    from funnel.training.exports import usage
    from funnel.training.session import check_place

    if teacher and (loss != "mse" or scale != "probability"):
        raise typer.BadParameter(
            "its scores are probabilities for --loss mse", param_hint="--teacher"
        )
    check_place(base, train_settings, run_options)
    result, soft = _form(form), loss == "mse"
    held_out = read_pairs(str(dev), on_bad_line, soft=soft) if dev else None
    report = train_cross_encoder(
        taught_pairs(data, teacher, on_bad_line, run_options.output)
        if teacher
        else read_pairs(data, on_bad_line, soft=soft),
        replace(run_options, data_name=_named(data, teacher)),
        base=base,
        loss=loss,
        scale=scale,
        residual=residual,
        form=result,
        settings=train_settings,
        dev=held_out,
    )
    _tell(report, json_out, f"use it:\n{usage(report.output.absolute(), 'stage')}")


@app.command("duplicate")
@with_options(run_options, train_settings)
def duplicate(
    run_options: RunOptions,
    train_settings: TrainSettings,
    data: DATA,
    base: Annotated[str, typer.Option(help="Model to start from.")] = "embedded:duplicate",
    residual: RESIDUAL = False,
    form: FORM = "auto",
    dev: DEV = None,
    on_bad_line: ON_BAD_LINE = "fail",
    json_out: JSON_OUT = False,
) -> None:
    """Fine-tune the cache's paraphrase detector on (question1, question2, is_duplicate) rows."""
    from funnel.training.duplicate import train_duplicate
    from funnel.training.exports import usage

    report = train_duplicate(
        read_pairs(data, on_bad_line),
        replace(run_options, data_name=data),
        base=base,
        residual=residual,
        form=_form(form),
        settings=train_settings,
        dev=read_pairs(str(dev), on_bad_line) if dev else None,
    )
    _tell(report, json_out, f"use it:\n{usage(report.output.absolute(), 'verifier')}")


@app.command("bi-encoder")
@with_options(run_options, train_settings)
def bi_encoder(
    run_options: RunOptions,
    train_settings: TrainSettings,
    data: DATA,
    base: Annotated[str, typer.Option(help="Encoder to start from.")] = "embedded:all-MiniLM-L6-v2",
    loss: Annotated[
        str, typer.Option(help="cosine: (query, document, score); margin_mse: triples.")
    ] = "cosine",
    teacher: TEACHER = None,
    scale: SCALE = "probability",
    on_bad_line: ON_BAD_LINE = "fail",
    json_out: JSON_OUT = False,
) -> None:
    """Distil a cross-encoder into an encoder, so that stage 1 ranks like stage 2."""
    from funnel.training.bi_encoder import train_bi_encoder
    from funnel.training.session import check_place

    if loss not in ("cosine", "margin_mse"):
        raise typer.BadParameter(
            f"got {loss!r}, expected cosine or margin_mse", param_hint="--loss"
        )
    check_place(base, train_settings, run_options)
    distillation = read_distillation(data, loss, teacher, scale, on_bad_line, run_options.output)
    options = replace(run_options, data_name=_named(data, teacher))
    report = train_bi_encoder(distillation, options, base=base, settings=train_settings)
    _tell(report, json_out, _reindex(report.output.absolute()))


@app.command("mine")
def mine(
    source: Annotated[
        str,
        typer.Argument(help="A BEIR folder, a file of (query, positive) pairs, or example:NAME."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON lines to write.")],
    form: Annotated[
        str, typer.Option("--format", help="pairs (bce), scored (mse, cosine) or triples.")
    ] = "pairs",
    bi_encoder: Annotated[
        str, typer.Option(help="Encoder whose errors are mined; 'none' for BM25 alone.")
    ] = "embedded:all-MiniLM-L6-v2",
    cross_encoder: Annotated[
        str, typer.Option(help="Model that drops false negatives; 'none' keeps all.")
    ] = "embedded:relevance",
    per_positive: Annotated[int, typer.Option(help="Negatives for each positive.")] = 4,
    range_min: Annotated[int, typer.Option(help="Leave out the first ranks.")] = 0,
    range_max: Annotated[int, typer.Option(help="Last rank to look at.")] = 50,
    margin: Annotated[
        float, typer.Option(help="A negative must be this share less probable than the positive.")
    ] = 0.05,
    max_probability: Annotated[
        float, typer.Option(help="Drop negatives that are more probable than this.")
    ] = 1.0,
    split: Annotated[str, typer.Option(help="qrels/SPLIT.tsv of a BEIR folder.")] = "train",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUTPUT.")] = False,
    on_bad_line: ON_BAD_LINE = "fail",
    json_out: JSON_OUT = False,
) -> None:
    """Mine hard negatives; the output goes into the training commands as it is."""
    from funnel.errors import ConfigError
    from funnel.training.examples import data_file
    from funnel.training.mining import MiningSettings
    from funnel.training.mining import mine as mine_pool
    from funnel.training.output import check_file
    from funnel.training.pools import read_pool
    from funnel.training.writing import FORMS, write_mined

    if form not in FORMS:
        expected = ", ".join(FORMS)
        raise typer.BadParameter(f"got {form!r}, expected {expected}", param_hint="--format")
    if form == "scored" and cross_encoder == "none":
        raise ConfigError("--format scored needs a --cross-encoder to give the scores")
    path = data_file(source, "train.jsonl")
    check_file(output, overwrite=overwrite, sources=(path, *path.glob("*.jsonl*")))
    if output.suffix not in (".jsonl", ".ndjson"):
        raise typer.BadParameter(
            f"got {output.name!r}, expected a name that ends in .jsonl: JSON lines are written, "
            "and training tells formats by the name",
            param_hint="--output",
        )
    settings = MiningSettings(
        per_positive=per_positive,
        range_min=range_min,
        range_max=range_max,
        relative_margin=margin,
        max_probability=max_probability,
    )
    pool = read_pool(path, split=split, on_bad_line=bad_line_choice(on_bad_line))
    mined = mine_pool(
        pool,
        settings,
        encode=encoder(bi_encoder, "document"),
        encode_queries=encoder(bi_encoder, "query"),
        score=scorer(cross_encoder),
    )
    lines = write_mined(output, mined.triples, FORMS[form])
    counts = {"output": str(output), "lines": lines, **asdict(mined.counts)}
    if json_out:
        typer.echo(json.dumps(counts))
        return
    from funnel.cli.train_tables import show_mined

    show_mined(Console(), counts)


@app.command("evaluate")
def evaluate(
    cases: Annotated[
        str,
        typer.Argument(help="(query, relevant, distractor, topic, seen) rows; or example:NAME."),
    ],
    tuned: Annotated[str, typer.Option(help="The trained model: cross-encoder or bi-encoder.")],
    base: Annotated[
        str | None, typer.Option(help="What it is compared with; what it was trained from.")
    ] = None,
    on_bad_line: ON_BAD_LINE = "fail",
    json_out: JSON_OUT = False,
) -> None:
    """Does the relevant text outscore a distractor that shares the query's words?"""
    from funnel.training.examples import data_file
    from funnel.training.judges import pair_scores
    from funnel.training.origin import trained_from
    from funnel.training.protocol import compare, judge
    from funnel.training.reading import read_rows
    from funnel.training.records import case

    path = data_file(cases, "cases.jsonl")
    rows = read_rows(path, case, on_bad_line=bad_line_choice(on_bad_line))
    base = base or trained_from(tuned)
    score, score_base = pair_scores(tuned), pair_scores(base)  # a wrong name is told before work
    after = judge(rows, score)  # first, as a damaged one is likelier
    found = compare(judge(rows, score_base), after)
    if json_out:
        names = {"base_model": base, "tuned_model": tuned}
        typer.echo(json.dumps({**names, **found.as_json()}, ensure_ascii=False))
        return
    from funnel.cli.train_tables import show_comparison

    show_comparison(Console(), found, base=base, tuned=tuned)


@app.command("example")
def example(
    name: Annotated[str, typer.Argument(help="legal, bicycle or security.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the models.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier models.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an example that was interrupted.")
    ] = False,
    json_out: JSON_OUT = False,
) -> None:
    """Run a worked example from its data to a table of before and after."""
    from funnel.training.examples import run_example

    result = run_example(name, output, overwrite=overwrite, resume=resume)
    if json_out:
        typer.echo(json.dumps(result.as_json(), ensure_ascii=False))
        return
    from funnel.cli.train_tables import show_comparison, show_report

    console = Console()
    for report in result.reports.values():
        show_report(console, report)
    show_comparison(
        console, result.comparison, base=result.base, tuned=str(result.tuned), rivals=result.rivals
    )


def _named(data: str, teacher: str | None) -> str:
    return f"{data}, scored by {teacher}" if teacher else data


def _form(given: str) -> Any:
    if given not in ("auto", "model", "adapter"):
        raise typer.BadParameter(
            f"got {given!r}, expected auto, model or adapter", param_hint="--form"
        )
    return given


def _reindex(output: Path) -> str:
    from funnel.training.exports import embedder_usage

    return (
        f"use it:\n{embedder_usage(output)}\n"
        "then rebuild the index, whose vectors are the old model's:\n"
        "  funnel index CORPUS --config YOUR.yaml --rebuild"
    )


def _tell(report: "TrainReport", json_out: bool, use: str) -> None:
    if json_out:
        typer.echo(json.dumps({**report.as_json(), "use": use}, ensure_ascii=False))
        return
    from funnel.cli.train_tables import show_report

    console = Console(soft_wrap=True)
    show_report(console, report)
    console.print(use, markup=False, highlight=False)
