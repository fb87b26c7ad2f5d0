"""The report as a whole: files, page, tables; every edge a comparison can have."""

import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from report_fakes import METHODS, fake_comparison

from steepest.arena import report
from steepest.arena.report import page as page_module

VOID = {"meta", "link", "br", "img", "input", "hr", "circle", "line", "path"}
EVIL = "<script>alert('x')</script> & \"quotes\" | pipe `tick`"


@pytest.fixture
def small(monkeypatch):
    """The page without Plotly's five megabytes, which no test but one looks at."""
    monkeypatch.setattr(page_module, "get_plotlyjs", lambda: "/* plotly */")


class Page(HTMLParser):
    """Checks that tags nest, and keeps what the tests look at."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.ids, self.loads, self.text, self.scripts = [], [], [], [], []
        self.tables, self.ranked = [], {}
        self.feed(text)
        self.close()
        assert not self.stack, f"never closed: {self.stack}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in <{tag} {attrs}>"
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.loads += [found[k] for k in ("src", "href", "srcset", "data", "action", "poster") if found.get(k)]
        self.loads += re.findall(r"url\(([^)]*)\)", found.get("style") or "")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
            self.ranked.setdefault(found.get("data-method"), []).append(self.tables[-1][-1])
        if tag in ("td", "th"):
            self.tables[-1][-1].append({"text": "", **found})
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.stack, f"</{tag}> closes nothing"
            assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] in ("script", "style"):
            self.scripts.append(data)
            return
        self.text.append(data)
        if "td" in self.stack or "th" in self.stack:
            self.tables[-1][-1][-1]["text"] += data + " "

    def row(self, method):
        """The cells of the method's line in the (first) ranking."""
        return [" ".join(cell["text"].split()) for cell in self.ranked[method][0]]


def made(comparison, out):
    return Page(report.write(comparison, out)["report.html"].read_text(encoding="utf-8"))


def words(page):
    return " ".join(" ".join(page.text).split())


def data(page):
    return json.loads(next(s for s in page.scripts if s.startswith('{"methods"')))


CASES = {
    "usual": {},
    "one method": {"methods": ("adamw",)},
    "one seed": {"seeds": 1},
    "one method and seed": {"methods": ("lion",), "seeds": 1, "baseline": "adamw"},
    "a method diverges": {"diverging": ("sgd",)},
    "the baseline diverges": {"diverging": ("adamw",)},
    "nothing finishes": {"diverging": tuple(METHODS), "methods": ("adamw", "lion", "muon")},
    "three tasks": {"tasks": ("digits-mlp", "pytext-gpt", "w8a-logistic"), "methods": ("adamw", "lion", "muon")},
    "lower is better": {"tasks": ("pytext-gpt",)},
    "no memory": {"memory": False},
    "twelve methods": {"methods": tuple(METHODS), "trials": 5},
    "long names": {"titles": {"lion": "Lion " * 40, "muon": "M" * 200}},
    "incomplete": {"complete": False},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_kind_of_comparison_makes_a_sound_page(case, tmp_path, small):
    comparison = fake_comparison(**case)
    page = made(comparison, tmp_path)
    assert len(page.ids) == len(set(page.ids))
    assert not [link for link in page.loads if not link.startswith(("#", "data:"))]
    said = words(page)
    for method in comparison.methods:
        assert " ".join(method.title.split()) in said
        assert method.line[comparison.tasks[0].name] in said
    assert not re.search(r"\b(nan|None|undefined)\b", said.replace("the loss became nan", ""))
    for task in comparison.tasks:
        assert f"{task.parameters:,}" in said
    assert comparison.plan["command"] in said
    # All runs and all trials are there, whatever became of them.
    rows = sum(len(t) - 1 for t in page.tables)
    assert rows >= len(comparison.runs) + len(comparison.trials) + len(comparison.methods) * len(comparison.tasks)


def test_the_ranking_shows_the_means_and_intervals_of_the_runs(tmp_path, small):
    comparison = fake_comparison()
    page = made(comparison, tmp_path)
    means = {}
    for method in comparison.methods:
        scores = {r.seed: r.test_metric for r in comparison.runs if r.method == method.name}
        means[method.title] = np.mean(list(scores.values()))
        cells = page.row(method.name)
        shown = re.match(r"([\d.]+) \[([\d.]+), ([\d.]+)\]", cells[2])
        assert shown[1] == f"{means[method.title]:.4f}"
        assert min(scores.values()) - 1e-4 <= float(shown[2]) <= float(shown[1]) <= float(shown[3])
        assert cells[8] == f"{METHODS[method.name][4]:#.3g}"  # state bytes
        memory = max(r.peak_memory_bytes for r in comparison.runs if r.method == method.name)
        assert cells[7] == f"{memory / 2**20:.0f} MiB"
        assert cells[9] == "5 of 5"
        base = {r.seed: r.test_metric for r in comparison.runs if r.method == "adamw"}
        if method.name != "adamw":
            difference = np.mean([scores[s] - base[s] for s in scores])
            assert cells[4].startswith(f"{difference:+.4f}".replace("-", "−"))
            assert cells[4].endswith(("better", "worse", "not separated"))
    order = [" ".join(r[1]["text"].split()).removesuffix(" baseline") for r in page.tables[0][1:]]
    best = sorted(means, key=means.get, reverse=True)
    assert [o.removesuffix(" not separated from #1") for o in order] == best
    assert words(page).index(f"{best[0]} has the best mean test accuracy") < words(page).index("Ranking")


def test_steps_to_the_target_are_those_of_the_curves(tmp_path, small):
    comparison = fake_comparison(tasks=("pytext-gpt",))
    page = made(comparison, tmp_path)
    target = float(re.search(r"Target: a validation bits per character of ([\d.]+)\.", words(page))[1])
    for method in ("muon", "lion", "diffgrad"):
        steps = [
            next((p.step for p in r.curve if p.validation_metric <= target), np.inf)
            for r in comparison.runs
            if r.method == method
        ]
        cell = page.row(method)[5]
        median = np.median(steps)
        assert cell.startswith(f"{median:.0f}" if np.isfinite(median) else "not reached")


def test_methods_that_are_not_separated_from_the_first_are_marked(tmp_path, small):
    comparison = fake_comparison(("adamw", "adabelief", "sgd"))
    page = made(comparison, tmp_path / "some")
    found = [m for m in ("adamw", "adabelief", "sgd") if "not separated from #1" in page.row(m)[1]]
    first = page.tables[0][1][1]["text"]
    assert found == (["adabelief"] if "AdamW" in first else ["adamw"])
    # Two runs of the same noise: nothing is separated, and one sentence says so instead of every line.
    rng = np.random.default_rng(0)
    runs = [dataclasses.replace(r, test_metric=0.9 + 0.01 * rng.standard_normal()) for r in comparison.runs]
    page = made(dataclasses.replace(comparison, runs=runs), tmp_path / "none")
    assert "The data separate no other method from the first." in words(page)
    assert "not separated from #1" not in words(page)


def test_lower_is_better_ranks_the_smallest_first(tmp_path, small):
    page = made(fake_comparison(tasks=("pytext-gpt",)), tmp_path)
    values = [float(r[2]["data-sort"]) for r in page.tables[0][1:]]
    assert values == sorted(values)
    assert "lower is better" in words(page)


def test_a_single_seed_shows_no_interval_and_says_so(tmp_path, small):
    page = made(fake_comparison(seeds=1), tmp_path)
    assert "[" not in page.row("lion")[2]
    assert "One seed for each method" in words(page)
    assert all(not s["low"] for c in data(page)["tasks"].values() for s in c["curves"]["step"]["train_loss"]["series"])


def test_lost_runs_are_named_at_the_top_and_kept_in_the_tables(tmp_path, small):
    comparison = fake_comparison(diverging=("sgd",))
    page = made(comparison, tmp_path)
    said = words(page)
    assert said.index("SGD with momentum: 5 of 5 final runs diverged or failed") < said.index("Ranking")
    cells = page.row("sgd")
    assert cells[0] == cells[2] == "–"
    assert cells[9] == "0 of 5 5 lost"
    assert said.count("the loss became nan at step 83") == 5
    trials = page.tables[2]
    assert len(trials) - 1 == len(comparison.trials)
    assert sum("diverged" in r[2]["text"] for r in trials[1:]) == sum(t.status == "diverged" for t in comparison.trials)


def test_no_complete_run_at_all(tmp_path, small):
    page = made(fake_comparison(diverging=tuple(METHODS), methods=("adamw", "lion")), tmp_path)
    assert "no method finished a final run" in words(page)
    assert "Paired differences" not in words(page)


def test_an_empty_comparison_still_makes_a_report(tmp_path, small):
    comparison = dataclasses.replace(fake_comparison(complete=False), runs=(), trials=())
    page = made(comparison, tmp_path)
    assert "Incomplete: 0 of 40 final runs are here" in words(page)
    assert "Learning curves" not in words(page)
    assert pd.read_parquet(tmp_path / "results.parquet").empty


def test_incomplete_and_shared_cores_are_said_at_the_top(tmp_path, small):
    comparison = fake_comparison(complete=False)
    warning = "8 workers share 2 cores: times are not comparable."
    comparison = dataclasses.replace(comparison, plan={**comparison.plan, "warning": warning})
    said = words(made(comparison, tmp_path))
    assert f"Incomplete: {len(comparison.runs)} of 40 final runs" in said
    assert said.count(warning) == 1
    assert said.index(warning) < said.index("Ranking")


def test_missing_memory_is_a_dash_that_sorts_last(tmp_path, small):
    page = made(fake_comparison(memory=False), tmp_path)
    assert page.row("lion")[7] == "–"
    assert {r[7]["data-sort"] for r in page.tables[0][1:]} == {""}


def test_names_with_html_are_text_everywhere(tmp_path, small):
    comparison = fake_comparison(titles={"lion": EVIL})
    task = dataclasses.replace(comparison.tasks[0], title=EVIL, metric="</script><b>acc")
    trial = dataclasses.replace(comparison.trials[0], reason="</script><img src=x onerror=alert(1)>")
    comparison = dataclasses.replace(comparison, tasks=[task], trials=[trial, *comparison.trials[1:]])
    out = report.write(comparison, tmp_path)
    text = out["report.html"].read_text(encoding="utf-8")
    page = Page(text)  # a script or tag that broke out would not nest
    assert "<script>alert" not in text
    assert "<img" not in text
    assert words(page).count("<script>alert('x')</script> &") > 3
    assert EVIL in [m["title"] for m in data(page)["methods"]]
    assert "</script><b>acc" in data(page)["tasks"]["digits-mlp"]["curves"]["step"]["validation_metric"]["title"]
    markdown = out["report.md"].read_text(encoding="utf-8")
    assert "<script>" not in markdown.replace("# <script>alert", "")  # only as a comment inside a block of code
    assert "<img" not in markdown


def test_the_charts_hold_the_runs(tmp_path, small):
    comparison = fake_comparison(seeds=3)
    charts = data(made(comparison, tmp_path))["tasks"]["digits-mlp"]
    series = {s["method"]: s for s in charts["curves"]["step"]["validation_metric"]["series"]}
    for method in ("adamw", "muon"):
        values = np.array(
            [[p.validation_metric for p in r.curve] for r in comparison.runs if r.method == method], dtype=float
        )
        assert series[method]["x"] == [p.step for p in comparison.runs[0].curve]
        np.testing.assert_allclose(series[method]["mid"], np.median(values, axis=0), rtol=1e-6)
        np.testing.assert_allclose(series[method]["low"], values.min(axis=0), rtol=1e-6)
        np.testing.assert_allclose(series[method]["high"], values.max(axis=0), rtol=1e-6)
    for method, points in charts["landscape"]["points"].items():
        mine = [t for t in comparison.trials if t.method == method]
        assert [(p["x"], p["y"]) for p in points] == [(t.settings["lr"], t.score) for t in mine]
        assert [p["mark"] for p in points] == [t.status for t in mine]
        best = max((t for t in mine if t.score is not None), key=lambda t: t.score)
        assert [p["x"] for p in points if p["best"]] == [best.settings["lr"]]


def test_a_trial_that_learned_nothing_does_not_squeeze_the_landscape(tmp_path, small):
    comparison = fake_comparison(methods=("adamw", "muon"))
    index = next(i for i, t in enumerate(comparison.trials) if t.status == "complete")
    trials = list(comparison.trials)
    trials[index] = dataclasses.replace(trials[index], score=0.1)
    page = made(dataclasses.replace(comparison, trials=trials), tmp_path)
    landscape = data(page)["tasks"]["digits-mlp"]["landscape"]
    assert landscape["points"]["adamw"][index]["mark"] == "off scale"
    assert [p["mark"] for p in landscape["points"]["muon"]].count("off scale") == 0
    assert landscape["y"][0] > 0.9
    assert landscape["best"] == max(t.score for t in trials if t.score is not None)


def test_of_equal_trials_the_ring_marks_the_one_that_went_to_the_final_runs(tmp_path, small):
    comparison = fake_comparison(methods=("adamw", "muon"))
    done = [k for k, t in enumerate(comparison.trials) if t.method == "adamw" and t.status == "complete"]
    trials = list(comparison.trials)
    for k in (done[0], done[-1]):
        trials[k] = dataclasses.replace(trials[k], score=0.999)
    runs = [dataclasses.replace(r, settings=trials[done[-1]].settings) for r in comparison.runs]
    page = made(dataclasses.replace(comparison, trials=trials, runs=runs), tmp_path)
    points = data(page)["tasks"]["digits-mlp"]["landscape"]["points"]["adamw"]
    assert [k for k, p in enumerate(points) if p["best"]] == [done[-1]]


def test_trials_without_a_learning_rate_stand_in_their_order(tmp_path, small):
    comparison = fake_comparison(methods=("adamw", "muon"))
    trials = [dataclasses.replace(t, settings={"beta2": 0.99}) if t.method == "muon" else t for t in comparison.trials]
    best = next(k for k, t in enumerate(trials) if t.method == "muon" and t.status == "complete")
    trials[best] = dataclasses.replace(trials[best], score=0.9999)
    landscape = data(made(dataclasses.replace(comparison, trials=trials), tmp_path))["tasks"]["digits-mlp"]["landscape"]
    assert landscape["ordered"] == ["muon"]
    assert landscape["best"] == 0.9999
    mine = [t for t in trials if t.method == "muon"]
    places = [math.log10(p["x"]) for p in landscape["points"]["muon"]]
    assert [p["y"] for p in landscape["points"]["muon"]] == [t.score for t in mine]
    assert sorted(range(len(mine)), key=lambda k: mine[k].slot) == sorted(range(len(mine)), key=lambda k: places[k])
    assert landscape["x"][0] < min(places) < max(places) < landscape["x"][1]
    np.testing.assert_allclose(np.diff(sorted(places)), np.diff(sorted(places))[0])


def test_curves_of_seeds_evaluated_at_different_times_are_interpolated(tmp_path, small):
    """Lines through the same straight curve, sampled at other seconds, must give that curve again."""
    comparison = fake_comparison(methods=("adamw",), seeds=3)
    runs = []
    for k, run in enumerate(comparison.runs):
        scale = 1 + 0.1 * k
        curve = [
            dataclasses.replace(p, seconds=p.step * scale, train_loss=100 - p.step * scale / 10) for p in run.curve
        ]
        runs.append(dataclasses.replace(run, curve=curve))
    charts = data(made(dataclasses.replace(comparison, runs=runs), tmp_path))["tasks"]["digits-mlp"]
    (series,) = charts["curves"]["seconds"]["train_loss"]["series"]
    np.testing.assert_allclose(series["mid"], 100 - np.array(series["x"]) / 10, rtol=1e-5)
    assert series["x"][-1] <= 550 + 1e-6  # where two of the three seeds still have values


def test_a_value_beyond_all_bounds_does_not_break_the_page(tmp_path, small):
    comparison = fake_comparison(methods=("adamw", "sgd"), seeds=2)
    run = comparison.runs[0]
    curve = [dataclasses.replace(run.curve[0], train_loss=float("inf")), *run.curve[1:]]
    comparison = dataclasses.replace(
        comparison, runs=[dataclasses.replace(run, curve=curve, test_loss=1e300), *comparison.runs[1:]]
    )
    assert data(made(comparison, tmp_path))["tasks"]["digits-mlp"]["curves"]["step"]["train_loss"]["series"]


def test_the_profile_appears_with_several_tasks(tmp_path, small):
    several = made(
        fake_comparison(tasks=("digits-mlp", "pytext-gpt"), methods=("adamw", "lion", "muon")), tmp_path / "2"
    )
    profiles = data(several)["profiles"]
    assert set(profiles) == {"steps", "seconds"}
    assert all(a <= b for s in profiles["steps"]["series"] for a, b in zip(s["y"], s["y"][1:], strict=False))
    assert "Performance profile" in words(several)
    single = made(fake_comparison(methods=("adamw", "lion")), tmp_path / "1")
    assert data(single)["profiles"] == {}
    assert "Performance profile" not in words(single)


def test_the_page_carries_plotly_and_loads_nothing(tmp_path):
    text = report.write(fake_comparison(methods=("adamw", "lion"), trials=3), tmp_path)["report.html"].read_text(
        encoding="utf-8"
    )
    assert "plotly.js v" in text
    outside = re.sub(r"(?s)<script>.*?</script>", "", text)
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(\s*["']?(?:https?:)?//""", outside)
    assert len(text) < 6_000_000


def test_tables_are_the_runs_and_trials(tmp_path, small):
    comparison = fake_comparison(tasks=("digits-mlp", "w8a-logistic"), methods=("adamw", "sgd"), diverging=("sgd",))
    out = report.write(comparison, tmp_path)
    runs = pd.read_parquet(out["results.parquet"])
    assert len(runs) == len(comparison.runs)
    for row, run in zip(runs.itertuples(), comparison.runs, strict=True):
        assert (row.task, row.method, row.seed, row.status, row.steps) == (
            run.task, run.method, run.seed, run.status, run.steps,
        )  # fmt: skip
        assert row.seconds == run.seconds
        assert row.peak_memory_bytes == run.peak_memory_bytes
        assert json.loads(row.settings) == run.settings
        for name in ("test_metric", "test_loss", "reason"):
            value = getattr(row, name)
            assert pd.isna(value) if getattr(run, name) is None else value == getattr(run, name)
    assert set(runs.metric[runs.task == "digits-mlp"]) == {"accuracy"}
    trials = pd.read_parquet(out["trials.parquet"])
    assert list(trials.slot) == [t.slot for t in comparison.trials]
    assert [None if pd.isna(s) else s for s in trials.score] == [t.score for t in comparison.trials]
    curves = pd.read_parquet(out["curves.parquet"])
    assert len(curves) == sum(len(r.curve) for r in comparison.runs)
    for name, frame in (("results", runs), ("trials", trials), ("curves", curves)):
        read = pd.read_csv(out[f"{name}.csv"], dtype=dict(frame.dtypes))
        pd.testing.assert_frame_equal(read, frame)


def test_a_failure_leaves_the_old_report(tmp_path, small, monkeypatch):
    old = report.write(fake_comparison(methods=("adamw", "lion")), tmp_path)
    before = {name: path.read_bytes() for name, path in old.items()}

    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    with pytest.raises(OSError, match="no space"):
        report.write(fake_comparison(methods=("adamw", "sgd")), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_new_report_replaces_the_old_one_and_nothing_else(tmp_path, small):
    (tmp_path / "results.json").write_text("{}")
    report.write(fake_comparison(methods=("adamw", "lion")), tmp_path)
    report.write(fake_comparison(methods=("adamw", "sgd")), tmp_path)
    assert "SGD with momentum" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (tmp_path / "results.json").read_text() == "{}"
    kinds = {f"{n}.{k}" for n in ("results", "trials", "curves") for k in ("csv", "parquet")}
    assert {p.name for p in tmp_path.iterdir()} == {"report.html", "report.md", "results.json", *kinds}
