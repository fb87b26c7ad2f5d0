"""The convex benchmark: equal accuracy means equal accuracy, ratios and promises are computed right."""

import json
import time
from typing import Any

import pytest

from steepest.bench.commands import convex_command
from steepest.bench.convex import Side, contest, run
from steepest.bench.convex.contest import Outcome, promise_ratio
from steepest.core.errors import UnknownName


def sleeper(name: str, package: str, seconds: float, power: float, log: list[tuple[str, float]]) -> Side:
    """A solver whose accuracy is its tolerance to some power, and which takes its time."""

    def solve(tolerance: float) -> float:
        log.append((name, tolerance))
        time.sleep(seconds)
        return float(tolerance**power)

    return Side(name, package, solve, (1e-1, 1e-2, 1e-3, 1e-4))


def test_every_side_gets_the_loosest_tolerance_that_is_accurate_enough() -> None:
    log: list[tuple[str, float]] = []
    sides = [sleeper("ours", "steepest", 0.002, 2.0, log), sleeper("slow", "peer", 0.02, 1.0, log)]
    found = contest("s", "p", 1e-3, "gap", lambda x: x, sides, rounds=3)
    assert [o.name for o in found] == ["ours", "slow"]
    assert [o.reached for o in found] == pytest.approx([1e-4, 1e-3])
    assert found[1].of_best_peer == 1.0
    assert found[0].of_best_peer == pytest.approx(found[0].seconds / found[1].seconds)  # type: ignore[operator]
    # The first call is a warm-up; then from loose to tight; then in turns.
    assert [t for name, t in log if name == "slow"][:4] == [1e-1, 1e-1, 1e-2, 1e-3]
    assert log[-6:] == [("ours", 1e-2), ("slow", 1e-3)] * 3


def test_what_does_not_get_there_is_said_and_not_ranked() -> None:
    log: list[tuple[str, float]] = []

    def broken(tolerance: float) -> Any:
        raise ValueError("no such penalty")

    sides = [
        sleeper("rough", "peer", 0.0, 0.1, log),
        sleeper("patient", "peer", 0.05, 0.5, log),
        Side("broken", "peer", broken),
        sleeper("ours", "steepest", 0.0, 2.0, log),
    ]
    found = {o.name: o for o in contest("s", "p", 1e-3, "gap", lambda x: x, sides, rounds=1, patience=0.01)}
    assert found["ours"].seconds is not None
    assert found["ours"].of_best_peer is None  # nobody to compare with
    assert "at its tightest tolerance" in found["rough"].note
    assert "given up" in found["patient"].note
    assert found["broken"].note == "failed: ValueError: no such penalty"


def outcome(problem: str, package: str, seconds: float | None, ratio: float | None) -> Outcome:
    return Outcome("s", problem, "gap <= 1", package, package, seconds, 0.5, ratio)


def test_a_promise_holds_in_every_contest_or_not_at_all() -> None:
    rows = [outcome("a", "steepest", 2.0, 2.0), outcome("a", "peer", 1.0, 1.0)]
    more = [outcome("b", "steepest", 4.0, 4.0), outcome("b", "peer", 1.0, 1.0)]
    assert promise_ratio("t", 3.0, rows).met is True
    broken = promise_ratio("t", 3.0, rows + more)
    assert broken.met is False
    assert broken.figure.startswith("2.00 to 4.00 (most: b")
    assert promise_ratio("t", 3.0, [outcome("c", "steepest", 1.0, None)]).met is None
    slow = Outcome("s", "e", "gap <= 1", "peer", "peer", note="given up", spent=8.0)
    given_up = promise_ratio("t", 0.5, [outcome("e", "steepest", 2.0, None), slow])
    assert given_up.met is True
    assert given_up.figure.startswith("0.25 to 0.25")
    lost = [outcome("d", "steepest", None, None), outcome("d", "peer", 1.0, 1.0)]
    assert promise_ratio("t", 3.0, lost).met is False


def test_the_smoke_run_prints_and_judges_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert convex_command(["lazy"], threads=1, smoke=True) == 0
    printed = capsys.readouterr().out
    assert "factorizations" in printed
    assert "open" in printed
    assert "met " not in printed
    assert convex_command(["lazy"], threads=1, smoke=True, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tables"]["factorizations"][0]["fewer"] > found["tables"]["factorizations"][0]["sqrt(d)/4"]
    assert found["promises"][0]["met"] is None


def test_bad_input() -> None:
    with pytest.raises(UnknownName, match="sparse"):
        run(sections=["sprase"])
    with pytest.raises(ValueError, match="threads must be an integer >= 1, got 0"):
        run(threads=0)
