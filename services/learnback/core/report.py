"""Reports: one description of headings, texts, tables and charts, written as Markdown and as one
HTML file that needs nothing else.

Charts are SVG drawn here: axes with round numbers, labels, a legend, readable on light and dark
paper. There is no JavaScript and no dependency. `Page.write` puts both files into a folder, and the
charts beside the Markdown as images.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Point = tuple[float, float]

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 26, 44
LEGEND_ROW = 18
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""Okabe and Ito's, which people with colour blindness tell apart (jfly.uni-koeln.de/color)."""
DASHES = ("", "7 3", "2 3", "9 3 2 3")
"""Beside colours, for prints in grey: the second round of colours is dashed."""
TICKS = 5
CHART_STYLE = (
    "svg.chart{font:12px system-ui,sans-serif;color:#1a1a1a}"
    "svg.chart .paper{fill:#fff}svg.chart .grid{stroke:#d9d9d9}"
    "@media(prefers-color-scheme:dark){svg.chart{color:#e6e6e6}"
    "svg.chart .paper{fill:#161616}svg.chart .grid{stroke:#3a3a3a}}"
)
PAGE_STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;"
    "margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{border:1px solid #d0d0d0;"
    "padding:.3rem .6rem;text-align:left;vertical-align:top;overflow-wrap:anywhere}"
    "svg.chart{max-width:100%;height:auto}"
    "@media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#161616}"
    "th,td{border-color:#444}}"
)


@dataclass(frozen=True)
class Heading:
    """A title within the page."""

    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph of plain words."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows under column names."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chart:
    """A picture."""

    title: str
    svg: str
    summary: str
    """In words, for who does not see it."""


Part = Heading | Text | Table | Chart


@dataclass
class Page:
    """A report."""

    title: str
    parts: list[Part] = field(default_factory=list)

    def add(self, *parts: Part) -> None:
        """Put parts at the end."""
        self.parts.extend(parts)

    def html(self) -> str:
        """One self-contained file."""
        title = html.escape(self.title)
        body = "\n".join(_html(part) for part in self.parts)
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            '<meta name="viewport" content="width=device-width">'
            f"<style>{PAGE_STYLE}</style></head>\n<body>\n<h1>{title}</h1>\n{body}\n</body></html>\n"
        )

    def markdown(self, stem: str = "report") -> str:
        """The same with charts as the images that `write` puts beside it under that stem."""
        images = _image_names(self.parts, stem)
        body = "\n\n".join(_markdown(part, images) for part in self.parts)
        return f"# {_plain(self.title)}\n\n{body}\n"

    def write(self, folder: Path, stem: str = "report") -> None:
        """Write ``stem.md``, its images ``stem-*.svg``, and ``stem.html`` into ``folder``."""
        for chart, name in _image_names(self.parts, stem).items():
            (folder / name).write_text(chart.svg, encoding="utf-8")
        (folder / f"{stem}.md").write_text(self.markdown(stem), encoding="utf-8")
        (folder / f"{stem}.html").write_text(self.html(), encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """A table; numbers are shown with four significant digits."""
    return Table(tuple(head), tuple(tuple(_cell(value) for value in row) for row in rows))


def line_chart(
    title: str,
    series: Mapping[str, Sequence[Point]],
    *,
    x_label: str,
    y_label: str,
    diagonal: bool = False,
    bands: Mapping[str, Sequence[Point]] | None = None,
) -> Chart:
    """Lines over a common axis, one a name; points that are no numbers leave a gap.

    ``diagonal`` draws y = x, as reliability plots want it; ``bands`` are (low, high) for each point
    of the series of that name.
    """
    bands = bands or {}
    points = [p for line in series.values() for p in line if _finite(p)]
    ys = [y for _, y in points] + [y for band in bands.values() for pair in band for y in pair]
    frame = _Frame.around([x for x, _ in points], [y for y in ys if math.isfinite(y)])
    if diagonal:
        frame = _Frame.around([0.0, 1.0], [0.0, 1.0])
    drawn = [frame.axes(x_label, y_label)]
    if diagonal:
        drawn.append(_path([frame.at((0, 0)), frame.at((1, 1))], "currentColor", dash="3 4"))
    for i, (name, line) in enumerate(series.items()):
        drawn.append(_band(frame, line, bands.get(name, ()), _colour(i)))
        drawn.append(_line(frame, line, _colour(i), _dash(i)))
    legend, rows = _legend(list(series))
    picture = _svg(title, "".join([*drawn, legend]), HEIGHT + rows * LEGEND_ROW)
    return Chart(title, picture, "; ".join(_ends(*line) for line in series.items()))


def bar_chart(
    title: str,
    values: Mapping[str, float],
    *,
    y_label: str,
    intervals: Mapping[str, Point] | None = None,
) -> Chart:
    """One bar a name, from zero, with an interval where there is one."""
    intervals = intervals or {}
    known = {name: value for name, value in values.items() if math.isfinite(value)}
    ends = [end for name in known for end in intervals.get(name, ())]
    frame = _Frame.around([0, max(len(values), 1)], [0.0, *known.values(), *ends])
    drawn = [frame.axes("", y_label, x_ticks=False)]
    for i, name in enumerate(values):
        if name in known:
            drawn.append(_bar(frame, i, known[name], intervals.get(name)))
        at = frame.at((i + 0.5, frame.y[0]))
        drawn.append(_text(at[0], HEIGHT - BOTTOM + 16, _short(name, len(values)), "middle"))
    said = "; ".join(f"{name} {_cell(value)}" for name, value in values.items())
    return Chart(title, _svg(title, "".join(drawn)), said)


@dataclass(frozen=True)
class _Frame:
    """Where values are on the picture: the two ends of each axis, with round numbers between."""

    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def around(cls, xs: Sequence[float], ys: Sequence[float]) -> _Frame:
        return cls(_range(xs, exact=True), _range(ys, exact=False))

    def at(self, point: Point) -> Point:
        across = (point[0] - self.x[0]) / (self.x[1] - self.x[0])
        up = (point[1] - self.y[0]) / (self.y[1] - self.y[0])
        across, up = (min(max(share, 0.0), 1.0) for share in (across, up))
        return (
            LEFT + across * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM),
        )

    def axes(self, x_label: str, y_label: str, *, x_ticks: bool = True) -> str:
        left, bottom, right = LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT
        drawn = []
        for tick in _ticks(*self.y):
            y = self.at((self.x[0], tick))[1]
            drawn.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            drawn.append(_text(left - 6, y + 4, _number(tick), "end"))
        for tick in _ticks(*self.x) if x_ticks else ():
            drawn.append(_text(self.at((tick, 0))[0], bottom + 16, _number(tick), "middle"))
        drawn.append(
            f'<path d="M{left} {TOP}V{bottom}H{right}" fill="none" stroke="currentColor"/>'
        )
        drawn.append(_text((left + right) / 2, HEIGHT - 8, x_label, "middle"))
        turned = f'transform="rotate(-90 14 {(TOP + bottom) / 2:.0f})"'
        drawn.append(_text(14, (TOP + bottom) / 2, y_label, "middle", turned))
        return "".join(drawn)


def _range(values: Sequence[float], *, exact: bool) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if low == high:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    if exact:
        return low, high
    step = _step(high - low)
    return math.floor(low / step) * step, math.ceil(high / step) * step


def _step(span: float) -> float:
    """The round number that makes about TICKS steps of a span: 1, 2 or 5 times a power of ten."""
    rough = span / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def _ticks(low: float, high: float) -> list[float]:
    step = _step(high - low)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _line(frame: _Frame, line: Sequence[Point], colour: str, dash: str) -> str:
    drawn, run = [], list[Point]()
    for point in [*line, (math.nan, math.nan)]:
        if _finite(point):
            run.append(frame.at(point))
        elif len(run) == 1:
            drawn.append(
                f'<circle cx="{run[0][0]:.1f}" cy="{run[0][1]:.1f}" r="3" fill="{colour}"/>'
            )
            run = []
        elif run:
            drawn.append(_path(run, colour, dash=dash))
            run = []
    return "".join(drawn)


def _band(frame: _Frame, line: Sequence[Point], band: Sequence[Point], colour: str) -> str:
    if not band:
        return ""
    known = [(x, ends) for (x, _), ends in zip(line, band, strict=True) if _finite(ends)]
    edge = [frame.at((x, low)) for x, (low, _) in known]
    edge += [frame.at((x, high)) for x, (_, high) in reversed(known)]
    corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in edge)
    return f'<polygon points="{corners}" fill="{colour}" opacity="0.18"/>'


def _bar(frame: _Frame, i: int, value: float, interval: Point | None) -> str:
    (left, top), (right, bottom) = frame.at((i + 0.15, value)), frame.at((i + 0.85, 0))
    top, bottom = sorted((top, bottom))
    drawn = (
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
        f'height="{bottom - top:.1f}" fill="{_colour(i)}"/>'
    )
    if interval:
        low, high = (frame.at((i + 0.5, end)) for end in interval)
        drawn += _path([low, high], "currentColor")
    return drawn + _text((left + right) / 2, top - 4, _cell(value), "middle")


def _path(points: Sequence[Point], colour: str, *, dash: str = "") -> str:
    d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="{d}" fill="none" stroke="{colour}" stroke-width="1.8"{dashed}/>'


def _legend(names: Sequence[str]) -> tuple[str, int]:
    """Below the picture, in as many rows as it takes."""
    drawn, x, row = [], float(LEFT), 0
    for i, name in enumerate(names):
        width = 36 + 7 * len(name)
        if x > LEFT and x + width > WIDTH - RIGHT:
            x, row = float(LEFT), row + 1
        y = HEIGHT + row * LEGEND_ROW + 8
        drawn.append(_path([(x, y), (x + 18, y)], _colour(i), dash=_dash(i)))
        drawn.append(_text(x + 22, y + 4, name, "start"))
        x += width
    return "".join(drawn), row + 1 if names else 0


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    said = html.escape(text)
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor" {more}>'
        f"{said}</text>"
    )


def _svg(title: str, drawn: str, height: int = HEIGHT) -> str:
    said = html.escape(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img"><title>{said}</title>'
        f'<style>{CHART_STYLE}</style><rect class="paper" width="{WIDTH}" height="{height}"/>'
        + _text(LEFT, 14, title, "start", 'font-weight="bold"')
        + drawn
        + "</svg>"
    )


def _html(part: Part) -> str:
    match part:
        case Heading(text):
            return f"<h2>{html.escape(text)}</h2>"
        case Text(text):
            return f"<p>{html.escape(text)}</p>"
        case Chart():
            return f"<figure>{part.svg}</figure>"
        case Table(head, rows):
            cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
            lines = "".join(
                "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
                for row in rows
            )
            return f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"


def _markdown(part: Part, images: Mapping[Chart, str]) -> str:
    match part:
        case Heading(text):
            return f"## {_plain(text)}"
        case Text(text):
            return _plain(text)
        case Chart():
            return f"![{_plain(part.title)}: {_plain(part.summary)}]({images[part]})"
        case Table(head, rows):
            lines = [head, ("---",) * len(head), *rows]
            return "\n".join("| " + " | ".join(_plain(c) for c in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Words on one line that Markdown shows as they are, HTML too."""
    escaped = re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)
    return " ".join(escaped.split())


def _image_names(parts: Sequence[Part], stem: str) -> dict[Chart, str]:
    names: dict[Chart, str] = {}
    for part in parts:
        if isinstance(part, Chart) and part not in names:
            slug = re.sub(r"[^a-z0-9]+", "-", part.title.lower()).strip("-")
            taken = f"{stem}-{slug}.svg" in names.values()
            names[part] = f"{stem}-{slug}{f'-{len(names)}' if taken else ''}.svg"
    return names


def _ends(name: str, line: Sequence[Point]) -> str:
    known = [y for x, y in line if _finite((x, y))]
    return f"{name} {_cell(known[0])} to {_cell(known[-1])}" if known else f"{name}: no values"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def _number(value: float) -> str:
    return f"{value:.10g}" if 1e-4 <= abs(value) < 1e7 or value == 0 else f"{value:.0e}"


def _short(name: str, count: int) -> str:
    room = max(4, int((WIDTH - LEFT - RIGHT) / max(count, 1) / 7))
    return name if len(name) <= room else name[: room - 1] + "…"


def _finite(point: Point) -> bool:
    return all(math.isfinite(value) for value in point)


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _dash(i: int) -> str:
    return DASHES[i // len(COLOURS) % len(DASHES)]
