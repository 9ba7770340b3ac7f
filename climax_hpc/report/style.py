"""Colours and line styles of all figures; figures as inline SVG in the text colour of the page, or as PNG."""

import base64
import io
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterMathtext, LogFormatterSciNotation

from climax_hpc.utils.atomic import write_atomically
from climax_hpc.utils.formatting import raised

# Text colour of SVG figures, replaced by CSS currentColor so that they are readable on light and dark pages.
_INK = "#010203"
_PRINT_INK = "#1d2733"
MODEL_COLOURS = ("#2f7fd8", "#e0762f", "#35a06a", "#a25fd0", "#c9473f", "#8a8d2b")
BASELINE_COLOUR = "#8c8c8c"
_BASELINE_DASHES = (":", "--", "-.", (0, (1, 3)), (0, (6, 3, 1, 3, 1, 3)))


@contextmanager
def figure_style(*, for_page: bool) -> Iterator[None]:
    """Matplotlib settings while a figure is drawn: transparent for the page, white for a PNG."""
    ink = _INK if for_page else _PRINT_INK
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    settings: dict[str, Any] = dict.fromkeys(inked, ink)
    settings |= {
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 10,
        "figure.facecolor": "none" if for_page else "white",
        "font.size": 9,
        "grid.alpha": 0.25,
        "grid.color": "#888888",
        "legend.frameon": False,
        "svg.fonttype": "none",
        "text.parse_math": False,  # names from files may contain $
    }
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with mpl.rc_context(settings):
        yield


def model_colours(labels: Sequence[str]) -> dict[str, str]:
    """One colour per label, in order."""
    return {label: MODEL_COLOURS[i % len(MODEL_COLOURS)] for i, label in enumerate(labels)}


def baseline_styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and dashes of one line per label, in order, as keywords of `Axes.plot`."""
    return {
        label: {"color": BASELINE_COLOUR, "ls": _BASELINE_DASHES[i % len(_BASELINE_DASHES)]}
        for i, label in enumerate(labels)
    }


def as_svg(figure: Figure, name: str) -> str:
    """The figure as an inline <svg> element; `name` makes its ids unique on the page and reproducible."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}), _verbatim(figure):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r'^<svg ([^>]*?)height="[^"]*" ([^>]*?)width="[^"]*"', r"<svg \1\2", svg, count=1, flags=re.DOTALL)


def as_png_uri(figure: Figure) -> str:
    """The figure as a data: URI of a PNG."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    with _verbatim(figure):
        figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def write_png(figure: Figure, path: Path) -> None:
    """Write the figure atomically."""
    write_atomically(path, png_writer(figure))


def png_writer(figure: Figure) -> Callable[[Path], None]:
    """A function that writes the figure to a file, for `write_together`."""

    def write(path: Path) -> None:
        with _verbatim(figure):
            figure.savefig(path, format="png", dpi=130, metadata={"Software": None})

    return write


@contextmanager
def _verbatim(figure: Figure) -> Iterator[None]:
    """Draw every text as it is: names from files may contain $, which matplotlib takes for mathematics."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
                axis.set_major_formatter(_PowerLabels())
                axis.set_minor_formatter(_PowerLabels())
    with mpl.rc_context({"text.parse_math": False}):
        yield


class _PowerLabels(LogFormatterSciNotation):
    """Labels of logarithmic axes in plain characters, such as 6×10⁻²."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        """The label of a value; empty for most minor ticks."""
        label = str(super().__call__(x, pos)).replace(r"\times", "×")
        label = re.sub(r"\^\{([^}]*)\}", lambda power: raised(power[1]), label)
        return re.sub(r"\$\\mathdefault\{(.*)\}\$", r"\1", label)
