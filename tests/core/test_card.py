"""Search spaces, and the line of Python that a card writes."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steepest.catalogue import cards
from steepest.core.card import Choice, Float, Integers, MethodCard, Paper

FRACTION = st.floats(0.0, 1.0, exclude_max=True)


@given(FRACTION)
def test_spaces_stay_inside(u: float) -> None:
    assert 1e-5 * (1 - 1e-12) <= Float(1e-5, 3e-2, log=True).at(u) <= 3e-2 * (1 + 1e-12)
    assert -1.0 <= Float(-1.0, 2.0).at(u) <= 2.0
    assert Integers(2, 5).at(u) in (2, 3, 4, 5)
    assert Choice(("a", "b", "c")).at(u) in ("a", "b", "c")


def test_spaces_are_even() -> None:
    assert Float(1e-4, 1.0, log=True).at(0.5) == pytest.approx(1e-2)
    assert Float(0.0, 4.0).at(0.25) == 1.0
    assert [Integers(2, 5).at(u / 8) for u in range(8)] == [2, 2, 3, 3, 4, 4, 5, 5]
    assert [Choice(("a", "b")).at(u) for u in (0.0, 0.49, 0.5, math.nextafter(1, 0))] == ["a", "a", "b", "b"]


def test_papers() -> None:
    assert str(Paper("A", 2020, "T", arxiv="2001.00001")) == "A (2020). T, arXiv 2001.00001"
    assert str(Paper("A", 2020, "T", venue="ICML")) == "A (2020). T, ICML"
    assert Paper("A", 2020, "T", arxiv="2001.00001").url == "https://arxiv.org/abs/2001.00001"
    assert Paper("A", 2020, "T", venue="ICML").url is None


def test_line() -> None:
    made = MethodCard(
        name="muon",
        title="Muon",
        room="optim",
        family="matrix",
        summary="s",
        target="steepest.optim.muon:Muon",
        papers=(),
        settings={"scale": "rms"},
        takes_model=True,
    )
    assert (
        made.line(lr=1 / 3, betas=(0.9, 0.99))
        == "steepest.optim.Muon(model, scale='rms', lr=0.333333, betas=(0.9, 0.99))"
    )
    wrapped = MethodCard(
        name="sgd",
        title="SGD",
        room="optim",
        family="f",
        summary="s",
        target="torch.optim:SGD",
        papers=(),
        wraps="torch.optim",
    )
    assert wrapped.line() == "torch.optim.SGD(model.parameters())"


def test_the_line_of_a_regularizer_runs_nothing() -> None:
    assert cards()["wgsef"].line() == "steepest.solve.convex.GroupSparseEnvelope(weight=0.01, k=10)"
    assert cards()["cs-regularizers"].line() == "steepest.solve.convex.TwoValued()"
    assert cards()["gradient-descent"].line().endswith("GradientDescent().run(problem, start, budget=budget)")


def test_the_line_of_a_solver_names_its_own_package() -> None:
    made = MethodCard(
        name="s", title="S", room="convex", family="f", summary="s", target="steepest.solve.convex.s:S", papers=()
    )
    assert made.line(rho=2.0) == "steepest.solve.convex.S(rho=2).run(problem, start, budget=budget)"
    made = MethodCard(
        name="t", title="T", room="net", family="f", summary="s", target="steepest.train.net.t:T", papers=()
    )
    assert made.line() == "steepest.train.net.T().run(problem, start, budget=budget)"
    made = dataclasses.replace(made, needs=frozenset({"estimator"}))
    assert made.line(penalty=0.5) == "steepest.train.net.T(penalty=0.5).fit(features, target)"
    made = dataclasses.replace(made, needs=frozenset({"function"}))
    assert made.line(penalty=0.5) == "steepest.train.net.T(features, target, penalty=0.5)"
    assert made.line() == "steepest.train.net.T(features, target)"
