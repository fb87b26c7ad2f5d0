"""Budgets: what they accept, how they read, when they are reached."""

import math
import pickle

import pytest

from steepest.core.budget import Budget


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("30s", "seconds", 30.0),
        ("2m", "seconds", 120.0),
        ("1.5 h", "seconds", 5400.0),
        (".5s", "seconds", 0.5),
        ("500steps", "steps", 500),
        (" 1 Step ", "steps", 1),
    ],
)
def test_parse(text: str, kind: str, amount: float) -> None:
    budget = Budget.parse(text)
    assert (budget.kind, budget.amount) == (kind, amount)
    assert type(budget.amount) is (int if kind == "steps" else float)
    assert Budget.parse(str(budget)) == budget


def test_parse_of_several_limits() -> None:
    budget = Budget.parse("500steps,2m")
    assert budget == Budget(steps=500, seconds=120.0)
    assert str(budget) == "500steps,120s"
    with pytest.raises(ValueError, match="several limits"):
        _ = budget.kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0s",
        "0steps",
        "-5s",
        "5",
        "s",
        "1.5steps",
        "5 parsecs",
        "nans",
        "inf s",
        "1e3steps",
        "5s,",
        "5s,6s",
        "9" * 400 + "s",
    ],
)
def test_unreadable_budgets_name_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="budget must") as caught:
        Budget.parse(text)
    assert repr(text) in str(caught.value)


def test_only_strings_are_parsed() -> None:
    with pytest.raises(TypeError, match="500steps"):
        Budget.parse(30)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, ValueError),
        ({"steps": 0}, ValueError),
        ({"steps": -1}, ValueError),
        ({"steps": 1.5}, TypeError),
        ({"steps": True}, TypeError),
        ({"seconds": 0}, ValueError),
        ({"seconds": -1.0}, ValueError),
        ({"seconds": math.inf}, ValueError),
        ({"seconds": math.nan}, ValueError),
        ({"seconds": "30s"}, TypeError),
        ({"calls": {"gradient": 0}}, ValueError),
        ({"calls": {"gradient": 2.5}}, TypeError),
        ({"calls": 5}, TypeError),
    ],
)
def test_limits_out_of_range(arguments: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error, match="Budget"):
        Budget(**arguments)  # type: ignore[arg-type]


def test_reached_names_the_limit_that_is_used_up() -> None:
    budget = Budget(steps=10, seconds=5.0, calls={"gradient": 7})
    assert budget.reached(9, 4.9, {"gradient": 6, "value": 100}) is None
    assert "10 steps" in str(budget.reached(10, 0.0, {}))
    assert "5 seconds" in str(budget.reached(0, 5.0, {}))
    assert "7 gradient" in str(budget.reached(0, 0.0, {"gradient": 9}))
    assert budget.fraction(5, 1.0, {"gradient": 6}) == 6 / 7
    assert budget.fraction(50, 1.0, {}) == 1.0


def test_a_budget_survives_pickling() -> None:
    budget = Budget(steps=3, calls={"hvp": 2})
    assert pickle.loads(pickle.dumps(budget)) == budget
    assert hash(budget) == hash(Budget(steps=3, calls={"hvp": 2}))
