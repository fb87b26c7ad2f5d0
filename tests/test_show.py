"""``steepest methods`` and ``steepest show``."""

import json

import pytest

from steepest.catalogue import cards
from steepest.cli import main


def _run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_methods_lists_every_card(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(["methods"], capsys)
    assert code == 0
    assert all(name in out for name in cards())
    code, out, _ = _run(["methods", "--json"], capsys)
    assert {entry["name"] for entry in json.loads(out)} == set(cards())


def test_methods_of_one_room(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = _run(["methods", "--room", "convex", "--json"], capsys)
    assert {entry["name"] for entry in json.loads(out)} == set(cards("convex"))
    code, _, err = _run(["methods", "--room", "convexx"], capsys)
    assert (code, "did you mean 'convex'" in err) == (2, True)


@pytest.mark.parametrize("name", cards())
def test_show_tells_line_source_and_claim(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    entry = cards()[name]
    code, out, _ = _run(["show", name], capsys)
    flat = " ".join(out.split())
    assert code == 0
    assert entry.line() in flat
    assert str(entry.papers[0].year) in flat
    assert entry.claim in flat


def test_show_of_an_unknown_method_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(["show", "lyon"], capsys)
    assert code == 2
    assert out == ""
    assert err.strip() == "steepest: unknown method 'lyon'; did you mean 'lion'?"
