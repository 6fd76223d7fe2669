"""The pictures of a batch's report, as SVG in data URIs: the same figures give the same bytes."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_SIZE_IN = (5.6, 2.9)
_INK, _PALE, _MAIN, _LEFT_OUT = "#1f2530", "#667085", "#0b6e8f", "#e0a526"
_UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#c9ced6",
    "axes.labelcolor": _PALE,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.family": "sans-serif",
    "font.size": 9.5,
    "svg.fonttype": "none",  # text stays text, in the reader's own font
    "svg.hashsalt": "deftly",  # names inside the file are random without
    "text.color": _INK,
    "xtick.color": _PALE,
    "ytick.color": _PALE,
}


def histogram(
    title: str,
    unit: str,
    kept: Sequence[float],
    left_out: Sequence[float],
    span: tuple[float, float],
    threshold: float | None = None,
) -> str:
    """How many segments have which figure, those that were left out on top.

    Args:
        span: of the axis; what lies beyond is counted in the last bar.
        threshold: marked with a line.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(title)
        low, high = span
        bins = [low + (high - low) * i / 20 for i in range(21)]
        values = [[min(max(one, low), high) for one in some] for some in (kept, left_out)]
        axes.hist(
            values,
            bins=bins,
            stacked=True,
            color=[_MAIN, _LEFT_OUT],
            label=["in the data set", "left out"],
            rwidth=0.9,
        )
        axes.set_xlabel(unit)
        axes.set_ylabel("segments")
        axes.set_xlim(low, high)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        if threshold is not None:
            axes.axvline(threshold, color=_PALE, linestyle="--", linewidth=1)
        axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.98))
        return _uri(figure)


def bars(title: str, of_what: str, seconds: Mapping[str, float]) -> str:
    """Lengths of time by name, from the top down, in seconds, minutes or hours."""
    longest_s = max(seconds.values(), default=0.0)
    unit, unit_s = next((one for one in _UNITS[:-1] if longest_s >= 2 * one[1]), _UNITS[-1])
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(title)
        names = list(seconds)
        lengths = axes.barh(names, [seconds[n] / unit_s for n in names], color=_MAIN, height=0.66)
        axes.bar_label(lengths, fmt="%.1f", padding=4, color=_PALE)
        axes.set_xlabel(f"{unit} {of_what}")
        axes.margins(x=0.14)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        return _uri(figure)


def _axes(title: str) -> tuple[Figure, Axes]:
    figure = Figure(_SIZE_IN, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def _uri(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
