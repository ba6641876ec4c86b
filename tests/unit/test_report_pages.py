"""One description of a report, as Markdown and as HTML."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from pathlib import Path

from learnback.core.report import Heading, Page, Text, bar_chart, line_chart, table

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]


def a_chart() -> str:
    series = {"loss": [(0.0, 2.0), (5.0, 1.0), (10.0, 0.5)], "kl": [(0.0, 0.0), (10.0, 1.9)]}
    return line_chart("Curves", series, x_label="step", y_label="nats").svg


def test_a_chart_says_what_its_axes_and_lines_are() -> None:
    said = texts(a_chart())

    assert {"Curves", "step", "nats", "loss", "kl"} <= set(said)
    assert {"0", "0.5", "1", "1.5", "2", "10"} <= set(said)


def test_a_point_that_is_no_number_leaves_a_gap() -> None:
    line = [(0.0, 1.0), (1.0, 2.0), (2.0, math.nan), (3.0, 1.0), (4.0, 2.0)]
    whole = [(x, 1.5 if math.isnan(y) else y) for x, y in line]

    def paths(points: list[tuple[float, float]]) -> int:
        return line_chart("x", {"a": points}, x_label="", y_label="").svg.count("<path")

    assert paths(line) == paths(whole) + 1


def test_charts_of_nothing_and_of_one_value_are_drawn() -> None:
    for series in ({}, {"a": []}, {"a": [(1.0, 3.0)]}, {"a": [(0.0, 0.0), (1.0, 0.0)]}):
        ET.fromstring(line_chart("x", series, x_label="", y_label="").svg)
    ET.fromstring(bar_chart("x", {}, y_label="").svg)


def test_a_legend_of_many_names_stays_inside_the_picture() -> None:
    series = {f"a rather long name {i}": [(0.0, float(i)), (1.0, 2.0)] for i in range(9)}
    svg = ET.fromstring(line_chart("x", series, x_label="", y_label="").svg)
    height = float(svg.get("height", 0))
    named = [e for e in svg.iter(f"{SVG}text") if (e.text or "").startswith("a rather")]

    assert len(named) == 9
    for text in named:
        assert float(text.get("x", 0)) + 7 * len(text.text or "") < 640
        assert float(text.get("y", 0)) < height


def test_bars_stand_on_zero_and_carry_their_interval() -> None:
    chart = bar_chart("Wins", {"sft": 0.5, "dpo": -0.25}, y_label="", intervals={"sft": (0.4, 0.6)})
    bars = [e for e in ET.fromstring(chart.svg).iter(f"{SVG}rect") if e.get("class") != "paper"]

    assert float(bars[0].get("height", 0)) == 2 * float(bars[1].get("height", 0))
    assert {"0.5", "-0.25", "sft", "dpo"} <= set(texts(chart.svg))


def test_what_people_said_can_not_break_out_of_the_page(tmp_path: Path) -> None:
    page = Page("<b>run</b>")
    page.add(table(("prompt",), [("<script>alert(1)</script> | *a*\nb",)]))
    page.write(tmp_path)

    assert "<script" not in (tmp_path / "report.html").read_text()
    assert (
        "\\<script\\>alert(1)\\</script\\> \\| \\*a\\* b |" in (tmp_path / "report.md").read_text()
    )


def test_markdown_shows_the_charts_that_are_written_beside_it(tmp_path: Path) -> None:
    page = Page("Run")
    chart = line_chart("Loss", {"loss": [(0, 2.0), (1, 0.123456)]}, x_label="step", y_label="nats")
    again = line_chart("Loss", {"loss": [(0, 3.0), (1, 1.0)]}, x_label="step", y_label="nats")
    page.add(Heading("Curves"), chart, again, Text("done"))
    page.write(tmp_path, "run")

    markdown = (tmp_path / "run.md").read_text()
    assert "![Loss: loss 2 to 0.1235](run-loss.svg)" in markdown
    assert (tmp_path / "run-loss.svg").read_text() == chart.svg
    assert (tmp_path / "run-loss-1.svg").read_text() == again.svg
    assert chart.svg in (tmp_path / "run.html").read_text()


def test_pages_and_charts_are_readable_in_the_dark() -> None:
    page = Page("Run").html()

    assert "prefers-color-scheme:dark" in page
    assert "prefers-color-scheme:dark" in a_chart()
    assert "<script" not in page
