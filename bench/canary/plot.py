"""Draws the share of decided canaries against the number of people, as SVG."""

from __future__ import annotations

from collections.abc import Sequence

from learnback.release.simulation import Outcomes

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 760, 320, 60, 46, 20, 230
COLOURS = {0.0: "#777777", 0.02: "#7fb069", 0.05: "#2a7f3f", -0.1: "#c0392b"}


def plot(found: Sequence[Outcomes], people: int) -> str:
    """One line for each true difference; dashed where people say which of two is better."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *_axes(people),
    ]
    for row, one in enumerate(found):
        colour = COLOURS.get(one.effect, "#333333")
        dashes = ' stroke-dasharray="6 4"' if one.comparing else ""
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2"{dashes} '
            f'points="{_line(one, people)}"/>'
        )
        y = TOP + 16 + 20 * row
        what = "rolled back" if one.effect < 0 else "promoted" if one.effect else "either, wrongly"
        label = f"{one.effect:+.0%} ({what})" if one.effect else f"equal ({what})"
        label += ", of two" if one.comparing else ""
        parts.append(f'<text x="{WIDTH - RIGHT + 14}" y="{y}" fill="{colour}">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _place(n: float, share: float, people: int) -> str:
    x = LEFT + (WIDTH - LEFT - RIGHT) * n / people
    y = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share
    return f"{x:.1f},{y:.1f}"


def _line(one: Outcomes, people: int) -> str:
    points = [_place(0, 0, people)]
    step = max(1, people // 200)
    counts = one.decided_after
    done = 0
    for n in range(0, people + 1, step):
        while done < len(counts) and counts[done] <= n:
            done += 1
        points.append(_place(n, done / one.canaries, people))
    return " ".join(points)


def _axes(people: int) -> list[str]:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = _place(0, share, people).split(",")
        end = _place(people, share, people).split(",")[0]
        parts.append(f'<line x1="{x}" y1="{y}" x2="{end}" y2="{y}" stroke="#e5e5e5"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{float(y) + 4}" text-anchor="end">{share:.0%}</text>'
        )
    for fraction in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = _place(people * fraction, 0, people).split(",")[0]
        parts.append(
            f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{people * fraction:,.0f}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">people who came</text>')
    parts.append(f'<text x="{LEFT}" y="12">canaries decided</text>')
    return parts
