"""Step time over model size: sizes, rows, the figure."""

import json
from pathlib import Path

import pytest

from steepest.bench import scaling
from steepest.cli import main
from steepest.core.errors import UnknownName


def test_sizes_are_evenly_spread_on_a_logarithmic_scale() -> None:
    assert scaling.sizes(1e6, 3e8)[0] == 1_000_000
    assert scaling.sizes(1e6, 3e8)[-1] == pytest.approx(3e8, rel=1e-6)
    ratios = [b / a for a, b in zip(scaling.sizes(1e6, 3e8), scaling.sizes(1e6, 3e8)[1:], strict=False)]
    assert max(ratios) < 4
    assert scaling.sizes(5000, 5000) == [5000]
    with pytest.raises(ValueError, match="smallest must be from 1,000 to largest=2000, got 3000"):
        scaling.sizes(3000, 2000)


def test_methods_without_a_compiled_form_are_refused() -> None:
    with pytest.raises(UnknownName, match="unknown compiled method 'lyon'; did you mean 'lion'"):
        scaling.run(["lyon"], 1e4, 1e4, 1, 1)


@pytest.mark.slow
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "curve.svg"
    arguments = ["bench", "scaling", "--methods", "lion", "--smallest", "20000", "--largest", "100000", "--rounds", "2"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--threads", "1", "--plot", str(figure), "--json"])
    assert ended.value.code == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in rows] == ["lion", "lion"]
    assert rows[0]["elements"] < rows[1]["elements"]
    assert rows[0]["exponent"] is None
    assert isinstance(rows[1]["exponent"], float)
    assert "<svg" in figure.read_text()
