"""The report in a real browser: opened from the disk, with nothing else to reach."""

import os
import shutil

import pytest
from report_fakes import fake_comparison

from steepest.arena import report
from steepest.arena.analysis import analyze

pytestmark = pytest.mark.integration

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
TASKS = ("digits-mlp", "pytext-gpt")


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("STEEPEST_CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("no Chromium: install Debian's package `chromium` or set STEEPEST_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def comparison():
    return fake_comparison(("adamw", "lion", "muon", "sgd", "adamp"), TASKS, diverging=("sgd",), trials=8)


@pytest.fixture(scope="module")
def written(comparison, tmp_path_factory):
    return report.write(comparison, tmp_path_factory.mktemp("report"))["report.html"]


@pytest.fixture
def opened(browser, written):
    """Opens the page; afterwards nothing may have been complained about or asked for."""
    contexts, trouble, asked = [], [], []

    def go(**options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options}))
        page = contexts[-1].new_page()
        page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: trouble.append(str(e)))
        page.on("request", lambda r: asked.append(r.url))
        page.goto(written.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert trouble == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [written.as_uri()] * len(contexts)


def draw_all(page):
    for chart in page.query_selector_all(".chart"):
        chart.scroll_into_view_if_needed()
    page.wait_for_function("[...document.querySelectorAll('.chart')].every(c => c.dataset.drawn)")


def order(page):
    return page.eval_on_selector_all("#task-digits-mlp .ranking tbody tr", "rows => rows.map(r => r.dataset.method)")


def test_the_verdict_is_read_first(opened, comparison):
    page = opened()
    found = analyze(comparison)
    verdict = " ".join(page.inner_text("#verdict").split())
    assert verdict == " ".join(found.verdict.split())
    assert page.locator("#verdict").bounding_box()["y"] < 400
    assert "SGD with momentum" in page.inner_text("header .caveats")


def test_headings_sort_the_table(opened, comparison):
    page = opened()
    ranking = {s.method: s for s in analyze(comparison).tasks[0].ranking}
    assert order(page) == list(ranking)
    state = page.locator("#task-digits-mlp .ranking thead button", has_text="State")
    heading = page.locator("#task-digits-mlp .ranking thead th", has_text="State")

    def key(method):
        return ranking[method].state_bytes_per_parameter

    known = [m for m in ranking if key(m) is not None]
    state.click()
    assert heading.get_attribute("aria-sort") == "ascending"
    # Equal values keep their order; the method without a value stays last either way.
    assert order(page) == [*sorted(known, key=key), "sgd"]
    assert order(page) != list(ranking)
    state.click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert [key(m) for m in order(page)[:-1]] == sorted((key(m) for m in known), reverse=True)
    assert order(page)[-1] == "sgd"

    name = page.locator("#task-digits-mlp .ranking thead button", has_text="Method")
    name.focus()
    page.keyboard.press("Enter")
    titles = {m.name: m.title for m in comparison.methods}
    assert order(page) == sorted(titles, key=lambda m: titles[m].lower())
    assert heading.get_attribute("aria-sort") == "none"
    metric = page.locator("#task-digits-mlp .ranking thead button", has_text="Test accuracy")
    metric.click()
    metric.click()
    assert order(page)[:3] == list(ranking)[:3]


def test_curves_by_step_and_by_second(opened, comparison):
    page = opened()
    draw_all(page)
    part = page.locator("#task-digits-mlp .part", has=page.locator(".curves"))
    chart = "document.querySelector('#task-digits-mlp .curves')"

    def last():
        return page.evaluate(f"{chart}.data.filter(t => t.name === 'Lion').map(t => [t.x.at(-1), t.y.at(-1)])[0]")

    runs = [r for r in comparison.runs if r.method == "lion" and r.task == "digits-mlp"]
    middle = sorted(r.curve[-1].validation_metric for r in runs)[2]
    assert last() == pytest.approx([500, middle])
    part.get_by_role("button", name="By second").click()
    assert last()[0] == pytest.approx(runs[0].curve[-1].seconds)
    assert page.evaluate(f"{chart}.layout.xaxis.title.text") == "seconds of training"
    assert part.get_by_role("button", name="By second").get_attribute("aria-pressed") == "true"
    assert part.get_by_role("button", name="By step").get_attribute("aria-pressed") == "false"
    part.get_by_role("button", name="Train loss").click()
    assert last()[1] == pytest.approx(sorted(r.curve[-1].train_loss for r in runs)[2])


def test_the_legend_hides_a_method_in_every_chart(opened):
    page = opened()
    draw_all(page)

    def names(selector):
        return page.evaluate(f"document.querySelector('{selector}').data.map(t => t.name)")

    assert "Lion" in names("#task-pytext-gpt .curves")
    page.locator("#task-digits-mlp .chip", has_text="Lion").click()
    for selector in ("#task-digits-mlp .curves", "#task-pytext-gpt .curves", "#profile .profile"):
        assert "Lion" not in names(selector)
        assert "Muon" in names(selector)
    page.wait_for_timeout(600)  # so that the next press is no double click with the last
    page.locator("#profile .chip", has_text="Muon").dblclick()
    assert {n for n in names("#profile .profile") if n} == {"Muon"}


def test_every_method_has_its_landscape_with_trials_that_failed(opened, comparison):
    page = opened()
    draw_all(page)
    drawn = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#task-digits-mlp figure')].map(f => [f.dataset.method, "
        "f.querySelector('.chart').data.slice(1).map(t => [t.x, t.marker.symbol ?? null])]))"
    )
    assert list(drawn) == [m.name for m in comparison.methods]
    for method, ((scored, _), (ring, _), (below, symbols)) in drawn.items():
        mine = [t for t in comparison.trials if t.task == "digits-mlp" and t.method == method]
        assert sorted(scored + below) == sorted(t.settings["lr"] for t in mine)
        # Below: a cross for what diverged, a tick for what was pruned, a dot for what scored far off the scale.
        assert symbols.count("x-thin-open") == sum(t.status == "diverged" for t in mine) > 0
        assert symbols.count("line-ns-open") == sum(t.status == "pruned" for t in mine) > 0
        best = max((t for t in mine if t.score is not None), key=lambda t: t.score)
        assert ring == [best.settings["lr"]]


def test_the_copy_button_copies_the_line(opened, comparison):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    item = page.locator("#task-digits-mlp .lines li", has_text="Lion").first
    item.get_by_role("button").click()
    page.wait_for_function("document.querySelector('#said').textContent.includes('Copied')")
    lion = next(m for m in comparison.methods if m.name == "lion")
    assert page.evaluate("navigator.clipboard.readText()") == lion.line["digits-mlp"]


def test_dark_mode_follows_the_system(opened):
    page = opened(color_scheme="light")
    draw_all(page)
    paper = "getComputedStyle(document.body).backgroundColor"
    line = "document.querySelector('.curves').data.find(t => t.name === 'Lion').line.color"
    light = page.evaluate(f"[{paper}, {line}]")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{line} !== '{light[1]}'")
    assert page.evaluate(paper) != light[0]


@pytest.mark.parametrize("width", [360, 820, 1280])
def test_no_width_makes_the_page_scroll_sideways(opened, width):
    page = opened(viewport={"width": width, "height": 800})
    draw_all(page)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
