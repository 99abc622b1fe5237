"""The picture: times of each row by tool, and how they grow, as SVG.

It follows the reader's light or dark mode.
"""

import math
from xml.sax.saxutils import escape

from bench.report import TOOLS, show_seconds

WIDTH, LABELS, RIGHT = 860, 290, 70
BAR, GAP, TOP = 9, 12, 58
PANEL, PANEL_TOP = 190, 34
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f }
  .small { font-size: 10px; fill: #57606a }
  .title { font-size: 14px; font-weight: 600 }
  .grid { stroke: #d0d7de; stroke-width: 1 }
  .ours { fill: #0969da; stroke: #0969da } .modelkit { fill: #bf8700; stroke: #bf8700 }
  .s5cmd { fill: #1a7f37; stroke: #1a7f37 } .rclone { fill: #8250df; stroke: #8250df }
  .obstore { fill: #cf222e; stroke: #cf222e } .cp { fill: #6e7781; stroke: #6e7781 }
  .bare, .botocore, .in-turn { fill: #afb8c1; stroke: #afb8c1 }
  .packed { stroke-dasharray: 4 3 }
  rect { stroke: none !important } polyline { fill: none !important; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .small { fill: #8d96a0 } .grid { stroke: #30363d }
    .ours { fill: #4493f8; stroke: #4493f8 }
    .modelkit { fill: #d29922; stroke: #d29922 }
    .s5cmd { fill: #3fb950; stroke: #3fb950 } .rclone { fill: #ab7df8; stroke: #ab7df8 }
    .obstore { fill: #f85149; stroke: #f85149 } .cp { fill: #8d96a0; stroke: #8d96a0 }
    .bare, .botocore, .in-turn { fill: #6e7681; stroke: #6e7681 }
  }
"""
NOT_DRAWN = ("hit", "packed-part")  # microseconds, and a number of requests


class Scale:
    """Places values on a line, by their logarithms, from a power of ten to another."""

    def __init__(self, values, start, end):
        values = list(values) or [1.0]
        self.low = math.floor(math.log10(min(values)) + 1e-9)
        self.high = max(math.ceil(math.log10(max(values)) - 1e-9), self.low + 1)
        self.start, self.end = start, end

    def place(self, value):
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    @property
    def powers(self):
        return [10.0**power for power in range(self.low, self.high + 1)]


def draw(document):
    """Return the picture of what was measured."""
    bars, height = _draw_bars(document)
    panels, height = _draw_growth(document, height)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img">\n'
        "<title>Times by tool: shorter is better</title>\n"
        f"<style>{STYLE}</style>\n" + "\n".join([*bars, *panels]) + "\n</svg>\n"
    )


def _draw_bars(document):
    rows = []
    for row in document["rows"]:
        cells = {tool: row["tools"].get(tool, {}).get("seconds") for tool in TOOLS}
        cells = {tool: seconds for tool, seconds in cells.items() if seconds}
        if cells and row["id"] not in NOT_DRAWN:
            rows.append((row["title"].replace("`", ""), cells))
    seconds = [value for _, cells in rows for value in cells.values()]
    scale = Scale(seconds, LABELS, WIDTH - RIGHT)
    parts, y = [], TOP
    used = [tool for tool in TOOLS if any(tool in cells for _, cells in rows)]
    for title, cells in rows:
        middle = y + len(cells) * BAR / 2 + 4
        parts.append(_text(LABELS - 10, middle, title, anchor="end"))
        for tool, value in cells.items():
            length = max(scale.place(value) - LABELS, 1)
            parts.append(
                f'<rect class="{tool}" x="{LABELS}" y="{y}" width="{length:.1f}" '
                f'height="{BAR - 1}"/>'
            )
            end = LABELS + length + 4
            parts.append(_text(end, y + BAR - 1, show_seconds(value), "small"))
            y += BAR
        y += GAP
    grid = []
    for power in scale.powers:
        x = scale.place(power)
        grid.append(_line(x, TOP - 8, x, y - GAP))
        grid.append(_text(x, TOP - 12, show_seconds(power), "small", "middle"))
    legend = _draw_legend(used, 24)
    title = _text(10, 24, "Time, log scale: shorter is better", "title")
    return [title, *legend, *grid, *parts], y


def _draw_legend(tools, y):
    parts, x = [], LABELS
    for tool in tools:
        parts.append(
            f'<rect class="{tool}" x="{x}" y="{y - 9}" width="10" height="9"/>'
        )
        parts.append(_text(x + 15, y, tool))
        x += 40 + 8 * len(tool)
    return parts


def _draw_growth(document, top):
    parts, panels = [], {}
    for series in document["growth"]:
        panels.setdefault(series["panel"], []).append(series)
    width = (WIDTH - 20) / max(len(panels), 1)
    for index, (name, several) in enumerate(panels.items()):
        parts += _draw_panel(name, several, 10 + index * width, top + PANEL_TOP, width)
    return parts, top + (PANEL + PANEL_TOP + 50 if panels else 10)


def _draw_panel(name, several, left, top, width):
    lines = []
    for series in several:
        for tool in TOOLS:
            points = [
                (point["size"], point["tools"][tool]["seconds"])
                for point in series["points"]
                if point["tools"].get(tool, {}).get("seconds")
            ]
            css = f"{tool} packed" if "packed" in series["id"] else tool
            lines += [(css, points)] if points else []
    if not lines:
        return []
    across = Scale([x for _, points in lines for x, _ in points], left + 46, 0)
    across.end = left + width - 16
    up = Scale([y for _, points in lines for _, y in points], top + PANEL, top)
    parts = [_text(left + 46, top - 12, name, "title")]
    for power in up.powers:
        y = up.place(power)
        parts.append(_line(across.start, y, across.end, y))
        parts.append(_text(left + 42, y + 4, show_seconds(power), "small", "end"))
    for power in across.powers:
        x = across.place(power)
        parts.append(_line(x, top, x, top + PANEL))
        parts.append(_text(x, top + PANEL + 14, f"{power:,.10g}", "small", "middle"))
    for css, points in lines:
        path = " ".join(
            f"{across.place(x):.1f},{up.place(y):.1f}" for x, y in sorted(points)
        )
        parts.append(f'<polyline class="{css}" points="{path}"/>')
    return parts


def _text(x, y, text, css="", anchor="start"):
    css = f' class="{css}"' if css else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}"{css} text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def _line(x1, y1, x2, y2):
    return (
        f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
    )
