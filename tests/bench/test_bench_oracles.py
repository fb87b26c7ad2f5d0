"""The benchmark of oracles: wrong answers are no rivals, ratios are to the first, promises can be missed."""

import json
import time

import pytest
import torch

from steepest.bench.commands import oracles_command
from steepest.bench.oracles import Way, run, turns
from steepest.bench.oracles.turns import most
from steepest.core.errors import UnknownName


def test_ways_are_timed_in_turns_and_who_answers_otherwise_is_not() -> None:
    order: list[str] = []

    def way(name: str, seconds: float, answer: float) -> Way:
        def work() -> torch.Tensor:
            order.append(name)
            time.sleep(seconds)
            return torch.tensor([answer])

        return Way(name, name, work, lambda found: found)

    def broken() -> None:
        raise RuntimeError("not here")

    ways = [way("a", 0.01, 1.0), way("b", 0.03, 1.0), way("wrong", 0.0, 1.1), Way("broken", "broken", broken)]
    rows = {row.name: row for row in turns("s", "m", ways, 3)}
    assert order == ["a", "b", "wrong"] + 3 * ["a", "b"]
    assert rows["a"].ratio == 1.0
    assert rows["b"].ratio is not None
    assert rows["b"].ratio > 1.5
    assert rows["wrong"].milliseconds is None
    assert "off by 1.0e-01" in rows["wrong"].note
    assert rows["broken"].note == "failed: RuntimeError: not here"


def test_promises_can_be_missed_and_left_open() -> None:
    assert most("t", 2.0, [1.0, 2.0]).met is True
    assert most("t", 2.0, [1.0, 2.1]).met is False
    assert most("t", 2.0, [1.0, 2.1]).figure == "1.00 to 2.10"
    assert most("t", 2.0, [1.0, None]).met is None
    assert most("t", 2.0, []).figure == "not measured"
    assert most("t", 2.0, [3.0], judged=False).met is None


def test_the_smoke_run_prints_and_judges_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert oracles_command(["sam", "egn"], threads=1, smoke=True) == 0
    printed = capsys.readouterr().out
    assert "SAM over it" in printed
    assert "open" in printed
    assert "MISSED" not in printed
    assert oracles_command(["grades"], threads=1, smoke=True, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["package"] for row in found["rows"]] == ["steepest", "steepest"]
    assert found["promises"][0]["met"] is None


def test_bad_input() -> None:
    with pytest.raises(UnknownName, match="grades"):
        run(sections=["grdes"])
    with pytest.raises(ValueError, match="rounds must be an integer >= 1, got 0"):
        run(rounds=0)
