"""A few shapes as SVG text: boxes, arrows, grids of cells, text; readable on light and on dark pages."""

from collections.abc import Callable, Sequence
from html import escape
from math import cos, sin

# The picture brings its own background, so that it is consistent wherever it is shown.
_STYLE = """
svg { color-scheme: light dark }
text { font-family: system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; font-size: 15px; fill: #263238 }
.small { font-size: 12.5px } .muted { fill: #607d8b } .bold { font-weight: 600 }
.mono { font-family: ui-monospace, 'DejaVu Sans Mono', monospace; font-size: 12.5px }
.card { fill: #f7f9fb } .line { stroke: #546e7a; stroke-width: 1.6; fill: none }
.dash { stroke-dasharray: 5 4 } .head { fill: #546e7a }
.box { fill: #ffffff; stroke: #546e7a; stroke-width: 1.4 } .grey { fill: #dfe6ea; stroke: #90a4ae }
.teal { fill: #b2dfdb; stroke: #00897b } .amber { fill: #ffe0b2; stroke: #ef6c00 }
.blue { fill: #bbdefb; stroke: #1976d2 } .red { fill: #ffcdd2; stroke: #d32f2f }
@media (prefers-color-scheme: dark) {
  text { fill: #eceff1 } .muted { fill: #b0bec5 } .card { fill: #232a33 }
  .line { stroke: #b0bec5 } .head { fill: #b0bec5 }
  .box { fill: #2f3944; stroke: #b0bec5 } .grey { fill: #3b4650; stroke: #78909c }
  .teal { fill: #00695c; stroke: #4db6ac } .amber { fill: #a65100; stroke: #ffb74d }
  .blue { fill: #1a5ea8; stroke: #64b5f6 } .red { fill: #a32a2a; stroke: #ef9a9a }
}
"""

_SHADES = ("blue", "teal", "grey", "amber")


def field(shift: float) -> Callable[[int, int], str]:
    """Colours of a smooth field of weather."""
    return lambda row, column: _SHADES[int(1.999 * (1 + 0.98 * sin(0.9 * column + shift) * cos(0.8 * row - shift)))]


class Drawing:
    """Shapes on a page of `width` × `height` pixels; classes of `_STYLE` give the colours."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._size = (width, height)
        self._title = title
        self._parts: list[str] = []

    def text(self, x: float, y: float, words: str, style: str = "", anchor: str = "middle") -> None:
        """One line of text; `y` is the base line."""
        self._parts.append(f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}">{escape(words)}</text>')

    def rect(self, x: float, y: float, w: float, h: float, style: str = "box", radius: float = 6) -> None:
        """A rectangle from its upper left corner."""
        self._parts.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{radius:g}" class="{style}"/>')

    def box(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        lines: Sequence[str],
        style: str = "box",
        small: str = "small muted",
    ) -> None:
        """A rectangle with centred text: the first line bold, the others small."""
        self.rect(x, y, w, h, style)
        top = y + h / 2 - 9 * (len(lines) - 1) + 5
        for n, line in enumerate(lines):
            self.text(x + w / 2, top + 18 * n, line, "bold" if n == 0 else small)

    def line(self, points: Sequence[tuple[float, float]], style: str = "line") -> None:
        """A line through points."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._parts.append(f'<polyline points="{path}" class="{style}"/>')

    def arrow(self, points: Sequence[tuple[float, float]], label: str = "", style: str = "line") -> None:
        """A line through points with a head at the last; the label stands above the middle of the first part."""
        (x0, y0), (x1, y1) = points[-2], points[-1]
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        dx, dy = (x1 - x0) / length, (y1 - y0) / length
        self.line([*points[:-1], (x1 - 7 * dx, y1 - 7 * dy)], style)
        corners = [(x1, y1), (x1 - 9 * dx - 5 * dy, y1 - 9 * dy + 5 * dx), (x1 - 9 * dx + 5 * dy, y1 - 9 * dy - 5 * dx)]
        self._parts.append(f'<polygon points="{" ".join(f"{x:g},{y:g}" for x, y in corners)}" class="head"/>')
        if label:
            (xa, ya), (xb, yb) = points[0], points[1]
            self.text((xa + xb) / 2, (ya + yb) / 2 - 8, label, "mono")

    def cells(
        self, x: float, y: float, rows: int, columns: int, size: float, style: Callable[[int, int], str] | str
    ) -> None:
        """A grid of square cells; `style` of (row, column), or of all."""
        for row in range(rows):
            for column in range(columns):
                chosen = style if isinstance(style, str) else style(row, column)
                self.rect(x + column * size, y + row * size, size, size, chosen, 0)

    def svg(self) -> str:
        """The file's text."""
        width, height = self._size
        shapes = "\n".join(self._parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
            f'width="{width}" height="{height}" aria-label="{escape(self._title)}">\n'
            f"<title>{escape(self._title)}</title>\n<style>{_STYLE}</style>\n"
            f'<rect width="{width}" height="{height}" rx="10" class="card"/>\n{shapes}\n</svg>\n'
        )
