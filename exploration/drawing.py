"""The style of the figures: fonts, consistent colours, axis formats and common plots."""
import contextlib

import numpy as np

FIRST, SECOND, THIRD, QUIET = "#1f5f8b", "#c8642b", "#4f7f52", "#9a9a9a"
INK = "#333333"
WIDTH = 9.0   # inches; with DPI a width that fits a README or a notebook
DPI = 150
STYLE = {
    "font.size": 9, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": "#b5b5b5", "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10, "axes.titlelocation": "left",
    "axes.titleweight": "bold", "axes.titlepad": 9, "axes.grid": True, "axes.axisbelow": True, "grid.color": "#ececec",
    "grid.linewidth": 0.8, "xtick.color": "#b5b5b5", "ytick.color": "#b5b5b5", "xtick.labelcolor": INK,
    "ytick.labelcolor": INK, "lines.linewidth": 1.8, "legend.frameon": False, "savefig.facecolor": "white",
    "text.parse_math": False}   # a name with two $ is no formula


@contextlib.contextmanager
def style():
    """Context in which figures are drawn and saved; restores matplotlib's settings afterwards."""
    import matplotlib
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE, "backend": "agg"}):
        yield


def sheet(rows=1, columns=1, height=3.4, **kwargs):
    """(Figure, axes) of WIDTH inches, without pyplot's global state."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08, wspace=0.06, hspace=0.06)
    return figure, figure.subplots(rows, columns, **kwargs)


def save(figure, path):
    """Save a png without a date, so that equal numbers give equal bytes."""
    figure.savefig(path, dpi=DPI, format="png", metadata={"Software": None})


def short(value, _=None):
    """A tick's number: 1500 as 1.5k, 2000000 as 2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def counts(axis):
    axis.set_major_formatter(short)


def shares(axis):
    axis.set_major_formatter(lambda value, _: f"{100 * value:.6g} %")


def log_counts(axis):
    """A logarithmic axis of counts, labelled at powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter
    axis.set_major_locator(LogLocator(10, numticks=12))
    axis.set_major_formatter(short)
    axis.set_minor_formatter(NullFormatter())


def note(axes, x, y, text, color=INK, ha="left", va="center", dx=4, dy=0, **kwargs):
    """A label beside a point, dx and dy points away."""
    axes.annotate(text, (x, y), xytext=(dx, dy), textcoords="offset points", color=color, ha=ha, va=va, **kwargs)


def histogram(axes, edges, heights, color=FIRST, label=None):
    """Filled steps of a histogram measured before."""
    axes.stairs(heights, edges, fill=True, color=color, alpha=0.85, label=label)
    axes.set_ylim(bottom=0)


def dumbbells(axes, names, first, second, words=None, rows=0):
    """Two shares per name, connected by a line: the first filled, the second open; the first name on top.

    words: labels of the two for the legend, None for no legend
    rows: number of names to leave room for, so that adjacent panels have equal spacing
    """
    place = np.arange(len(names))[::-1]
    axes.hlines(place, np.minimum(first, second), np.maximum(first, second), color="#cfcfcf", lw=2.2, zorder=1)
    axes.scatter(first, place, s=30, color=FIRST, zorder=3)
    axes.scatter(second, place, s=52, facecolor="white", edgecolor=SECOND, linewidth=1.6, zorder=2)
    axes.set_yticks(place, [n if len(n) <= 28 else n[:27] + "…" for n in names])
    axes.set_ylim(min(0, len(names) - rows) - 0.6, len(names) - 0.4)
    axes.set_xlim(0, 1.06 * max([*first, *second, 1e-9]))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    if words:
        axes.legend(axes.collections[1:], words, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handletextpad=0.1,
                    columnspacing=1, borderaxespad=0.1)
    shares(axes.xaxis)
