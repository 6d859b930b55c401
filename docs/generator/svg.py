"""A drawing as SVG text, the same bytes anywhere.

The picture brings its own background and follows the reader's colour scheme, since a page that
shows it as an image cannot lend it colours. Coordinates are pixels from the top left corner,
rounded to a tenth so that the last bit of a sum decides nothing.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

STYLE = """\
  .page { fill: #ffffff; stroke: #d0d7de }
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .axis { stroke: #b4bbc2; fill: none }
  .up { fill: #2a6fbb }
  .down { fill: #d1691e }
  .gone { fill: none; stroke: #8c959f }
  .mean { stroke: #1f2328; stroke-width: 2; fill: none }
  .one { stroke: #2a6fbb; fill: #2a6fbb }
  .two { stroke: #d1691e; fill: #d1691e }
  .three { stroke: #2f8a4c; fill: #2f8a4c }
  .merged { stroke: #1f2328; fill: #1f2328 }
  @media (prefers-color-scheme: dark) {
    .page { fill: #16191d; stroke: #3a4149 }
    text { fill: #e6e9ec }
    .axis { stroke: #59626b }
    .up { fill: #62a8ee }
    .down { fill: #f09550 }
    .gone { stroke: #8c959f }
    .mean { stroke: #e6e9ec }
    .one { stroke: #62a8ee; fill: #62a8ee }
    .two { stroke: #f09550; fill: #f09550 }
    .three { stroke: #65c486; fill: #65c486 }
    .merged { stroke: #e6e9ec; fill: #e6e9ec }
  }
"""


class Drawing:
    """Shapes in the order they were added; `text()` ends it."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._size = (number(width), number(height))
        self._title = title
        self._shapes: list[str] = []

    def bar(
        self, x: float, y: float, width: float, height: float, look: str, opacity: float = 1
    ) -> None:
        """A rectangle by its top left corner."""
        faint = "" if opacity == 1 else f' fill-opacity="{opacity:.2f}"'
        self._shapes.append(
            f'<rect class="{look}" x="{number(x)}" y="{number(y)}" width="{number(width)}" '
            f'height="{number(height)}"{faint}/>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, look: str, extra: str = "") -> None:
        self._shapes.append(
            f'<line class="{look}" x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" '
            f'y2="{number(y2)}"{extra}/>'
        )

    def dot(self, x: float, y: float, radius: float, look: str, hollow: bool = False) -> None:
        fill = ' style="fill: none; stroke-width: 2"' if hollow else ""
        self._shapes.append(
            f'<circle class="{look}" cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"{fill}/>'
        )

    def arrow(self, x1: float, y1: float, x2: float, y2: float, look: str, width: float) -> None:
        """A line with a head at (x2, y2); a dot where both ends meet."""
        length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
        if length < 1:
            self.dot(x2, y2, 4, look)
            return
        ahead, aside = (x2 - x1) / length, (y2 - y1) / length
        neck_x, neck_y = x2 - 11 * ahead, y2 - 11 * aside
        self.line(x1, y1, neck_x, neck_y, look, f' stroke-width="{number(width)}"')
        head = (
            (x2, y2),
            (neck_x - 5 * aside, neck_y + 5 * ahead),
            (neck_x + 5 * aside, neck_y - 5 * ahead),
        )
        points = " ".join(f"{number(x)},{number(y)}" for x, y in head)
        self._shapes.append(f'<polygon class="{look}" stroke-width="1" points="{points}"/>')

    def arc(self, x: float, y: float, radius: float) -> None:
        """A dashed quarter of a circle about (x, y): from its right to its top."""
        self._shapes.append(
            f'<path class="axis" stroke-dasharray="4 4" d="M {number(x + radius)} {number(y)} '
            f'A {number(radius)} {number(radius)} 0 0 0 {number(x)} {number(y - radius)}"/>'
        )

    def words(self, x: float, y: float, words: str, anchor: str = "start") -> None:
        """Text whose baseline begins, has its middle or ends at (x, y)."""
        self._shapes.append(
            f'<text x="{number(x)}" y="{number(y)}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def text(self) -> str:
        width, height = self._size
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}" role="img">',
                f"<title>{escape(self._title)}</title>",
                f"<style>\n{STYLE}</style>",
                f'<rect class="page" x="0.5" y="0.5" width="{number(float(width) - 1)}" '
                f'height="{number(float(height) - 1)}" rx="6"/>',
                *self._shapes,
                "</svg>",
            ]
        )


def number(value: float) -> str:
    """A coordinate to a tenth of a pixel, without `-0` and trailing zeros."""
    return f"{round(value * 10) / 10 + 0.0:g}"
