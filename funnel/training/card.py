"""The model card: what a tuned model was made from, how, and how well it did."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from math import inf
from pathlib import Path

import yaml

from funnel.training.origin import lasting_name
from funnel.training.report import TrainReport

_LIBRARIES = ("retrieval-funnel", "sentence-transformers", "transformers", "torch")


def model_card(report: TrainReport, *, usage: str) -> str:
    """Markdown with the front matter that model hubs read."""
    return (
        "\n\n".join(
            [
                _front_matter(report),
                f"# {report.output.name}",
                f"A {report.task}, trained from `{lasting_name(report.base)}` with `funnel train` "
                f"({report.form}).",
                "## Use\n\n```yaml\n" + usage.rstrip() + "\n```",
                "## Data\n\n" + _table(_data(report)),
                "## Figures on the held-out development part\n\n" + _before_after(report),
                "## Training\n\n" + _table(_run(report) | dict(report.settings)),
                _notes(report),
            ]
        ).rstrip()
        + "\n"
    )


def yaml_text(text: str | Path) -> str:
    """As a YAML string that reads back the same in any place, quoted where it must be."""
    # In a flow list more has to be quoted than anywhere else.
    listed = yaml.safe_dump([str(text)], default_flow_style=True, allow_unicode=True, width=inf)
    return listed.strip()[1:-1]


def _front_matter(report: TrainReport) -> str:
    library, base = "sentence-transformers", yaml_text(lasting_name(report.base))
    return f"---\nlibrary_name: {library}\nbase_model: {base}\ntags: [retrieval-funnel]\n---"


def _data(report: TrainReport) -> dict[str, object]:
    rows = {f"{name} rows": count for name, count in report.rows.items()}
    return {"source": report.data, **rows, "fingerprint of the run": report.fingerprint}


def _run(report: TrainReport) -> dict[str, object]:
    versions = ", ".join(f"{name} {found}" for name in _LIBRARIES if (found := _version(name)))
    return {
        "steps": report.steps,
        "kept step": report.kept_step,
        "seconds": round(report.seconds, 1),
        "hardware": report.hardware,
        "versions": versions,
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _before_after(report: TrainReport) -> str:
    lines = ["| figure | before | after |", "|---|---|---|"]
    for name, after in report.after.items():
        before = report.before.get(name)
        shown = "-" if before is None else f"{before:.4f}"
        lines.append(f"| {name} | {shown} | {after:.4f} |")
    return "\n".join(lines)


def _table(values: Mapping[str, object]) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in values.items())
    return f"| | |\n|---|---|\n{rows}"


def _notes(report: TrainReport) -> str:
    if not report.notes:
        return ""
    return "## Notes\n\n" + "\n".join(f"- {note}" for note in report.notes)
