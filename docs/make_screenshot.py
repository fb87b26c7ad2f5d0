"""Take the picture of a report for the docs: ``python docs/make_screenshot.py DIR [--out docs/images/report.png]``.

Needs the package ``playwright`` and a Chromium: Debian's, or the one that STEEPEST_CHROMIUM names.
"""

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def screenshot(report: Path, out: Path, width: int, height: int, dark: bool) -> None:
    """Render the top of ``report`` (an HTML file) into the PNG file ``out``; sizes in CSS pixels."""
    chromium = os.environ.get("STEEPEST_CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise SystemExit("no Chromium: install Debian's package `chromium` or set STEEPEST_CHROMIUM")
    out.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        page.goto(report.resolve().as_uri())
        # Charts are drawn as they come near the window.
        page.wait_for_function(
            "[...document.querySelectorAll('.chart')]"
            ".every(chart => chart.dataset.drawn || chart.getBoundingClientRect().top > innerHeight)"
        )
        page.wait_for_timeout(500)
        page.screenshot(path=out)
        browser.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Take the picture of a report for the docs.")
    parser.add_argument("folder", type=Path, help="a folder that `steepest compare` wrote")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "images" / "report.png")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=1960)
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    report = options.folder / "report.html"
    if not report.is_file():
        raise SystemExit(f"no report.html in {str(options.folder)!r}")
    screenshot(report, options.out, options.width, options.height, options.dark)
    print(options.out)


if __name__ == "__main__":
    main()
