"""Figures show names as they are, and powers of ten in plain characters."""

import re
from pathlib import Path

from matplotlib.figure import Figure

from climax_hpc.report.style import as_png_uri, as_svg, figure_style, write_png


def test_dollars_are_no_mathematics_and_powers_need_none(tmp_path: Path) -> None:
    with figure_style(for_page=True):
        figure = Figure()
        axes = figure.subplots()
        axes.plot([1, 100], [0.001, 10], label=r"$x_2$ and $\frac{")
        axes.set(xscale="log", yscale="log", title=r"$\broken")
        axes.legend()
        shown = re.findall(r">([^<>\n]+)</text>", as_svg(figure, "a"))
        assert as_png_uri(figure).startswith("data:image/png")
        write_png(figure, tmp_path / "a.png")
    assert {r"$x_2$ and $\frac{", r"$\broken", "10⁻³", "10⁰", "10²"} <= set(shown)
    assert (tmp_path / "a.png").stat().st_size > 1000
