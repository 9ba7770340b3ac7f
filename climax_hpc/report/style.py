"""Colours and line styles of all figures; figures as inline SVG in the text colour of the page, or as PNG."""

import base64
import io
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from climax_hpc.utils.atomic import write_atomically

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
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r'^<svg ([^>]*?)height="[^"]*" ([^>]*?)width="[^"]*"', r"<svg \1\2", svg, count=1, flags=re.DOTALL)


def as_png_uri(figure: Figure) -> str:
    """The figure as a data: URI of a PNG."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def write_png(figure: Figure, path: Path) -> None:
    """Write the figure atomically."""
    write_atomically(path, lambda t: figure.savefig(t, format="png", dpi=130, metadata={"Software": None}))
