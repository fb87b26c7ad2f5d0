"""Draw the picture of the page "Explain my run" with the page's own script: ``python docs/make_explain_figure.py``."""

import re
import shutil
import tempfile
from contextlib import chdir
from pathlib import Path

DOCS = Path(__file__).resolve().parent


def main() -> None:
    """Run the first block of Python on the page, and keep its picture."""
    page = (DOCS / "explain-my-run.md").read_text(encoding="utf-8")
    script = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert script is not None
    with tempfile.TemporaryDirectory() as folder:
        with chdir(folder):
            exec(compile(script.group(1), "explain-my-run.md", "exec"), {})
        shutil.copy(Path(folder) / "run.png", DOCS / "images" / "explain-my-run.png")


if __name__ == "__main__":
    main()
