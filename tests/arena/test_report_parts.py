"""The report's parts: numbers as text, the small axis, colours, Markdown tables."""

import math
import re

import numpy as np
import pytest
from report_fakes import METHODS, fake_comparison

from steepest.arena import report
from steepest.arena.analysis import Standing
from steepest.arena.report import numbers as n
from steepest.arena.report import page as page_module
from steepest.arena.report.markdown import table
from steepest.arena.report.palette import styles
from steepest.arena.report.scale import WIDTH, scale


@pytest.mark.parametrize(
    ("half_widths", "values", "expected"),
    [
        ([0.0012], [0.97], 4),
        ([0.12, 0.0012, 0.15], [0.97], 2),  # a single narrow interval does not set the digits of all
        ([None, 0.0], [0.9712], 4),
        ([None], [123.456], 1),
        ([3.0], [1000.0], 1),
        ([40.0], [1000.0], 0),
        ([], [], 2),
        ([1e-12], [1.0], 6),
    ],
)
def test_digits_follow_the_uncertainty(half_widths, values, expected):
    assert n.decimals(half_widths, values) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (n.fixed(0.97312, 3), "0.973"),
        (n.fixed(-1.5, 1), "−1.5"),
        (n.fixed(None, 3), "–"),
        (n.fixed(math.inf, 3), "inf"),
        (n.fixed(12345.6, 1), "12,345.6"),
        (n.fixed(3e12, 2), "3.000e+12"),
        (n.signed(0.0123, 3), "+0.012"),
        (n.signed(-0.0123, 3), "−0.012"),
        (n.signed(0.0001, 2), "0.00"),
        (n.signed(-0.0001, 2), "0.00"),
        (n.signed(-10.0, 0), "−10"),
        (n.signed(10.0, 0), "+10"),
        (n.signed(None, 2), "–"),
        (n.interval(0.1, 0.25, 2), "[0.10, 0.25]"),
        (n.interval(None, 0.25, 2), ""),
        (n.interval(-0.1, 0.25, 2, sign=True), "[−0.10, +0.25]"),
        (n.significant(0.0012345), "0.00123"),
        (n.significant(12345.0), "12,345"),
        (n.significant(3.2e-5, 2), "3.2e-05"),
        (n.significant(-3.2e-5, 2), "−3.2e-05"),
        (n.significant(2.5e8), "2.50e+08"),
        (n.significant(0.0), "0"),
        (n.count(12345.0), "12,345"),
        (n.count(None), "–"),
        (n.duration(0.0123), "0.0123 s"),
        (n.duration(99.94), "99.9 s"),
        (n.duration(245), "4 min 05 s"),
        (n.duration(7620), "2 h 07 min"),
        (n.memory(512), "512 B"),
        (n.memory(512 * 1024), "512 KiB"),
        (n.memory(13_002_342), "12.4 MiB"),
        (n.memory(3 * 2**30), "3.00 GiB"),
        (n.memory(None), "–"),
        (n.setting(0.000123456), "0.0001235"),
        (n.setting((0.9, 0.99)), "(0.9, 0.99)"),
        (n.setting("adam"), "adam"),
    ],
)
def test_numbers_as_text(text, expected):
    assert text == expected


def standing(method, mean, half=0.0):
    low, high = (None, None) if mean is None else (mean - half, mean + half)
    return Standing(1, method, 5, 0, mean, mean, half, low, high, 1.0, None, None)


def test_the_axis_keeps_order_and_proportion():
    ranking = [standing("a", 0.95, 0.01), standing("b", 0.90, 0.02), standing("c", 0.85, 0.01)]
    axis, bars = scale(ranking, "b", 2)
    assert (axis.low_text, axis.high_text) == ("0.84", "0.96")
    assert axis.baseline == bars["b"].mean == pytest.approx(WIDTH / 2)
    assert bars["a"].mean - bars["b"].mean == pytest.approx(bars["b"].mean - bars["c"].mean, abs=0.11)
    assert bars["c"].low == pytest.approx(8.0)
    assert bars["a"].high == pytest.approx(WIDTH - 8.0)
    assert bars["b"].label == "0.90 [0.88, 0.92]"


@pytest.mark.parametrize(("far", "side"), [(-1e9, "left"), (1e9, "right")])
def test_a_hopeless_method_leaves_the_axis(far, side):
    sign = 1 if far < 0 else -1
    values = [1.0, 1.0 - sign * 0.01, 1.0 - sign * 0.02, 1.0 - sign * 0.03, far]
    _, bars = scale([standing(f"m{i}", v, 0.001) for i, v in enumerate(values)], "m0", 3)
    assert bars["m4"].outside == side
    assert bars["m4"].low is None
    assert all(bars[f"m{i}"].outside is None for i in range(4))
    assert abs(bars["m0"].mean - bars["m3"].mean) > WIDTH / 2


def test_the_axis_of_a_single_value_and_of_none():
    axis, bars = scale([standing("a", 0.5), standing("b", None)], "a", 2)
    assert bars["a"].mean == pytest.approx(WIDTH / 2)
    assert "b" not in bars
    assert axis.low_text < "0.50" < axis.high_text
    assert scale([standing("a", None)], "a", 2)[1] == {}


def test_every_method_has_its_own_look():
    found = styles(list(METHODS), "adamw")
    assert list(found) == list(METHODS)
    for mode in ("light", "dark"):
        looks = {(getattr(s, mode), s.dash) for s in found.values()}
        assert len(looks) == len(METHODS)
    # A look does not depend on whether a method finished or where it ranks, only on the order of the methods.
    assert styles(["lion", "muon"], "adamw") == {k: found[k] for k in ("lion", "muon")}


def luminance(colour):
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize(("mode", "paper", "least"), [("light", "#fcfcfb", 2.5), ("dark", "#15181c", 4.5)])
def test_colours_stand_out_from_the_paper(mode, paper, least):
    for style in styles(list(METHODS), "adamw").values():
        pair = sorted((luminance(getattr(style, mode)), luminance(paper)))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) > least


def cells(line):
    return [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_a_markdown_table_lines_up_and_keeps_its_cells():
    text = table(["Name", "Value"], [("a|b", 1), ("<b>bold</b>", -20), ("two\nlines", "*x*")], "lr")
    lines = text.splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [len(cells(line)) for line in lines] == [2] * 5
    assert lines[1].endswith(":|")
    assert not lines[1].startswith("||")
    assert cells(lines[2]) == ["a\\|b", "1"]
    assert cells(lines[3])[0] == "&lt;b>bold&lt;/b>"
    assert cells(lines[4]) == ["two lines", "\\*x\\*"]
    assert lines[2].index("1") > lines[2].index("b")


def test_report_md_has_the_numbers_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "get_plotlyjs", lambda: "")
    comparison = fake_comparison(diverging=("sgd",))
    out = report.write(comparison, tmp_path)
    lines = out["report.md"].read_text(encoding="utf-8").splitlines()
    for method in comparison.methods:
        scores = [r.test_metric for r in comparison.runs if r.method == method.name and r.test_metric is not None]
        name = method.title + (" (baseline)" if method.name == "adamw" else "")
        row = next(cells(line) for line in lines if line.startswith("|") and cells(line)[1] == name)
        assert len(row) == 9
        assert row[2].split(" ")[0] == (f"{np.mean(scores):.4f}" if scores else "–")
        assert row[8] == ("5 of 5" if scores else "0 of 5, 5 lost")
        assert method.line["digits-mlp"] in lines
    trials = [cells(line) for line in lines if line.startswith("|") and len(cells(line)) == 8]
    assert len(trials) == len(comparison.trials) + 2  # and two lines of heading
    assert sum(row[2] == "diverged" for row in trials) == sum(t.status == "diverged" for t in comparison.trials)
    assert any("weight_decay=" in row[4] for row in trials)
    assert comparison.plan["command"] in lines


def test_a_code_block_cannot_be_closed_from_inside(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "get_plotlyjs", lambda: "")
    comparison = fake_comparison(methods=("adamw", "lion"), titles={"lion": "```\n# Heading"})
    text = report.write(comparison, tmp_path)["report.md"].read_text(encoding="utf-8")
    assert "````python" in text
    assert not re.search(r"^# Heading", text, flags=re.MULTILINE)
