"""Latency against rate as a picture (PNG or SVG, by the file's ending)."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from funnel.bench.load import LoadPoint
from funnel.errors import ConfigError, MissingExtra

_ENDINGS = (".png", ".svg")


def check_plot(path: Path) -> None:
    """Whether a picture can be drawn into that file, before what it shows is measured.

    Raises:
        MissingExtra: matplotlib is not installed.
        ConfigError: the file's ending is neither .png nor .svg.
    """
    if path.suffix not in _ENDINGS:
        raise ConfigError(f"{path}: got {path.suffix or 'no ending'}, expected .png or .svg")
    if find_spec("matplotlib") is None:
        raise MissingExtra("drawing", "plots")


def plot_load(points: Sequence[LoadPoint], path: Path) -> None:
    """Draw p50 and p99 of each setting over the share of capacity, on a logarithmic scale.

    Raises:
        MissingExtra: matplotlib is not installed.
        ConfigError: the file's ending is neither .png nor .svg.
    """
    check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for cache, adapt in sorted({(point.cache, point.adapt) for point in points}):
        rows = [point for point in points if (point.cache, point.adapt) == (cache, adapt)]
        label = f"{'cache' if cache else 'no cache'}, {'adaptive' if adapt else 'full'} depth"
        shares = [100 * row.share for row in rows]
        (line,) = axes.plot(shares, [row.p99_ms for row in rows], marker="o", label=f"p99 {label}")
        p50 = [row.p50_ms for row in rows]
        axes.plot(shares, p50, linestyle=":", color=line.get_color(), label=f"p50 {label}")
    axes.set(xlabel="rate, % of full-depth capacity", ylabel="latency from due time, ms")
    axes.set_yscale("log")
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
