"""Panels: small pictures with a title and a text for those who cannot see them."""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mmssl_jax.config import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which differ for colour-blind readers too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v")
GREY = "#767676"
SIZE, RESOLUTION = (4.8, 3.5), 150  # inches, pixels per inch
SETTINGS: Any = {
    "text.parse_math": False,  # names may hold a dollar sign
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "legend.frameon": False,
    "legend.fontsize": 9,
}


class Panel(NamedTuple):
    """One picture: `alt` says what it shows."""

    title: str
    alt: str
    png: bytes


class Series(NamedTuple):
    """Named points of a line, or heights of bars.

    style: number of its colour, or None for the grey of a baseline. dash: number of its dashes.
    mark: index of a point to mark.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: int | None = 0
    dash: int = 0
    mark: int | None = None


def require_matplotlib() -> None:
    """Raises ConfigError that says how to install Matplotlib, where it is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "the report draws with Matplotlib, which is not installed: "
            "pip install 'mmssl_jax[report]'"
        ) from error


def line_panel(
    title: str,
    series: Sequence[Series],
    x_label: str,
    alt: str,
    y_label: str = "",
    kind: Literal["curves", "stairs", "beside diagonal", "from zero"] = "curves",
) -> Panel:
    """Lines over a common axis.

    kind: stairs have the edges of bins as x, one more than y; beside the diagonal y = x is drawn
    for comparison; from zero starts the y axis there.
    """
    stairs, diagonal, from_zero = (kind == k for k in ("stairs", "beside diagonal", "from zero"))

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator, SymmetricalLogLocator

        for each in series:
            colour, dash = _colour(each.style), DASHES[each.dash % len(DASHES)]
            if stairs:
                axes.stairs(each.y, each.x, color=colour, linestyle=dash, label=each.label, lw=1.6)
                continue
            marker = "o" if len(each.x) <= 12 and not diagonal else None
            axes.plot(
                each.x, each.y, dash, color=colour, label=each.label, marker=marker, ms=3.5, lw=1.6
            )
            if each.mark is not None:
                point = [each.x[each.mark]], [each.y[each.mark]]
                axes.plot(*point, "o", color=colour, ms=8, mfc="none", mew=1.6)
        if diagonal:
            axes.plot([0, 1], [0, 1], ":", color="#b0b0b0", lw=1)
        whole = all(float(x).is_integer() for each in series for x in each.x)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=whole))
        if from_zero:
            axes.set_ylim(bottom=0)
        linear_up_to = None if stairs or diagonal else linear_range(series)
        if linear_up_to:
            axes.set_yscale("symlog", linthresh=linear_up_to)
            decades = SymmetricalLogLocator(base=10, linthresh=linear_up_to)
            decades.set_params(numticks=5)
            axes.yaxis.set_major_locator(decades)
            # Matplotlib's own labels of powers are formulas, which titles and names must not be.
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(xlabel=x_label, ylabel=y_label)

    return _panel(title, alt, draw, len(series))


def linear_range(series: Sequence[Series]) -> float | None:
    """Up to where a y axis should be linear, and logarithmic beyond; None for a linear one.

    A loss that starts a hundred times above its later values leaves nothing of these to see.
    """
    sizes = np.abs([y for each in series for y in each.y])
    typical = float(np.median(sizes)) if len(sizes) else 0.0
    return typical if typical and sizes.max() > 100 * typical else None


def bar_panel(
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    x_label: str,
    alt: str,
    y_label: str = "",
) -> Panel:
    """Groups of bars, one bar of each series per label; the x of the series do not count."""

    def draw(axes: "Axes") -> None:
        places, width = np.arange(len(labels)), 0.8 / len(series)
        for number, each in enumerate(series):
            offset = (number - (len(series) - 1) / 2) * width
            axes.bar(
                places + offset,
                each.y,
                width * 0.95,
                color=_colour(each.style) if each.style is not None else "#c4c4c4",
                edgecolor="white",
                label=each.label,
            )
        axes.grid(visible=False, axis="x")
        axes.set_xticks(places, labels, fontsize=9 if len(labels) <= 5 else 8)
        axes.set(xlabel=x_label, ylabel=y_label)

    return _panel(title, alt, draw, len(series))


def error_panel(title: str, bars: Sequence[Series], x_label: str, alt: str) -> Panel:
    """One lying bar for each series, the first on top: its y is [value], or [value, deviation],
    which is drawn as a whisker to both sides."""

    def draw(axes: "Axes") -> None:
        places = np.arange(len(bars))
        values = [each.y[0] for each in bars]
        deviations = [each.y[1] if len(each.y) > 1 else np.nan for each in bars]
        colours = [_colour(each.style) for each in bars]
        axes.barh(places, values, 0.7, color=colours, edgecolor="white")
        whiskers = np.isfinite(deviations)
        if whiskers.any():
            axes.errorbar(
                np.array(values)[whiskers], places[whiskers], xerr=np.array(deviations)[whiskers],
                fmt="none", ecolor="#202020", elinewidth=1.2, capsize=3,
            )  # fmt: skip
        axes.grid(visible=False, axis="y")
        labels = [each.label for each in bars]
        axes.set_yticks(places, labels, fontsize=9 if len(labels) <= 9 else 8)
        axes.invert_yaxis()
        axes.set(xlabel=x_label)

    return _panel(title, alt, draw, 1)


def category_panel(
    title: str, labels: Sequence[str], series: Sequence[Series], x_label: str, alt: str
) -> Panel:
    """Lines over groups that have an order and a name; the x of the series do not count."""

    def draw(axes: "Axes") -> None:
        places = np.arange(len(labels))
        for each in series:
            axes.plot(
                places, each.y, DASHES[each.dash % len(DASHES)], color=_colour(each.style),
                label=each.label, marker=MARKERS[each.dash % len(MARKERS)], ms=4, lw=1.6,
            )  # fmt: skip
        axes.set_xticks(places, labels, fontsize=9 if len(labels) <= 5 else 8)
        axes.set_xmargin(0.08)
        axes.set_ylim(bottom=0)
        axes.set(xlabel=x_label)

    return _panel(title, alt, draw, len(series))


def scatter_panel(
    title: str, points: Sequence[Series], x_label: str, y_label: str, alt: str
) -> Panel:
    """Points of a colour and shape each; the x axis is logarithmic where they are far apart."""
    places = [x for each in points for x in each.x]
    is_log = min(places) > 0 and max(places) > 8 * min(places)

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import LogLocator, MaxNLocator

        for each in points:
            marker = MARKERS[each.dash % len(MARKERS)]
            colour = _colour(each.style)
            axes.plot(each.x, each.y, marker, color=colour, label=each.label, ms=6)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        if is_log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=9))
            # Matplotlib's own labels of powers are formulas, which titles and names must not be.
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.margins(0.1)
        axes.set(xlabel=x_label, ylabel=y_label)

    return _panel(title, alt, draw, len(points))


def map_panel(
    title: str, xy: Float[np.ndarray, "n 2"], values: Int[np.ndarray, " n"], name: str, alt: str
) -> Panel:
    """Points in the plane, coloured by log10(1 + value); `name` says what the values are."""

    def draw(axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        order = np.argsort(values, kind="stable")  # the few popular ones on top
        size = 9 if len(values) <= 1000 else 4
        points = axes.scatter(
            xy[order, 0], xy[order, 1], c=np.log10(1 + values[order]), s=size, cmap="viridis"
        )
        axes.set(xticks=[], yticks=[])
        axes.figure.colorbar(
            points,
            ax=axes,
            label=name,
            ticks=MaxNLocator(nbins=5),
            format=lambda tick, _: f"{10**tick - 1:,.0f}",
        )

    return _panel(title, alt, draw, 1)


def _colour(style: int | None) -> str:
    return GREY if style is None else COLOURS[style % len(COLOURS)]


def _panel(title: str, alt: str, draw: Callable[["Axes"], None], n_series: int) -> Panel:
    """Draws on new axes, with a legend below them where there is a choice of series."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph")
        figure = Figure(figsize=SIZE, dpi=RESOLUTION, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_title(title, loc="left")
        if n_series > 1:
            _legend(figure, axes)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return Panel(title, alt, buffer.getvalue())


def _legend(figure: "Figure", axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(len(labels), 60 // max(8, max(map(len, labels)) + 4)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
