"""The contract that every solver keeps, over all cards of the rooms for solvers."""

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from solver_case import Case, all_cases

from steepest.catalogue import cards
from steepest.core import tree
from steepest.core.budget import Budget
from steepest.core.problem import MissingOracle, Problem
from steepest.core.ranges import Integer, Real
from steepest.core.result import Reason
from steepest.core.solver import Solver
from steepest.core.stopping import Stalled

CASES = all_cases()
each = pytest.mark.parametrize("case", CASES, ids=lambda case: f"@{case.name}")


def leaves(value: Any) -> list[Any]:
    """All that a state holds, generators as their states."""
    if dataclasses.is_dataclass(value):
        return [leaf for field in dataclasses.fields(value) for leaf in leaves(getattr(value, field.name))]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in leaves(item)]
    return [value.get_state() if isinstance(value, torch.Generator) else value]


def same(left: Any, right: Any) -> bool:
    """Whether two states are equal, bit for bit."""
    pairs = zip(leaves(left), leaves(right), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def run(case: Case, dtype: torch.dtype = torch.float64, steps: int | None = None, **settings: Any) -> Any:
    budget = Budget(steps=case.steps if steps is None else steps)
    return case.solver.run(case.problem(dtype), case.start(dtype), budget=budget, divergence=None, **settings)


def test_every_solver_has_a_case() -> None:
    classes = {name: card.load() for name, card in cards().items() if not card.trains}
    solvers = {name for name, found in classes.items() if isinstance(found, type) and issubclass(found, Solver)}
    assert solvers == {case.card for case in CASES}


def test_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


@each
def test_it_reaches_the_known_optimum(case: Case) -> None:
    problem = case.problem(torch.float64)
    result = run(case)
    assert case.optimum is not None or case.check is not None
    if case.optimum is not None:
        above = float(problem.value(result.solution)) - case.optimum  # type: ignore[attr-defined]
        assert -1e-9 * max(1.0, abs(case.optimum)) <= above <= case.accuracy
    if case.check is not None:
        case.check(result.solution)


@each
def test_a_certificate_bounds_what_is_missing(case: Case) -> None:
    if not case.bounds:
        pytest.skip("its stationarity is no bound on the value")
    assert case.optimum is not None
    trace = run(case).trace
    assert len(trace) > 1
    for value, bound in zip(trace.value, trace.stationarity, strict=True):
        assert value - case.optimum <= bound + 1e-9 * max(1.0, abs(case.optimum))
    assert trace.stationarity[-1] < trace.stationarity[0]


@each
@pytest.mark.parametrize("cut", [1, 4, 9])
def test_a_resumed_run_equals_the_undisturbed_one(case: Case, cut: int, tmp_path: Path) -> None:
    steps = 13
    whole = run(case, steps=steps, seed=3)
    file = tmp_path / "run.pt"
    run(case, steps=cut, seed=3, checkpoint=file)
    resumed = run(case, steps=steps, seed=3, checkpoint=file, resume="must")
    assert resumed.steps == whole.steps
    assert same(resumed.state, whole.state)
    assert same(resumed.solution, whole.solution)
    for name in ("step", "value", "stationarity", "feasibility", "calls"):
        assert getattr(resumed.trace, name) == getattr(whole.trace, name)


@each
def test_the_same_seed_gives_the_same_run(case: Case) -> None:
    assert same(run(case, steps=7, seed=5).state, run(case, steps=7, seed=5).state)


@each
def test_float32_stays_float32(case: Case) -> None:
    result = run(case, torch.float32)
    assert {leaf.dtype for leaf in tree.leaves(result.solution)} == {torch.float32}
    if case.optimum is not None:
        value = float(case.problem(torch.float64).value(tree.tree_map(lambda t: t.double(), result.solution)))  # type: ignore[attr-defined]
        assert value - case.optimum <= max(case.accuracy, case.accuracy32)


@each
def test_start_and_problem_are_left_as_they_were(case: Case) -> None:
    problem, start = case.problem(torch.float64), case.start(torch.float64)
    before, digest = copy.deepcopy(start), problem.fingerprint()
    case.solver.run(problem, start, budget="5steps", divergence=None)
    assert same(start, before)
    assert problem.fingerprint() == digest


@each
def test_a_step_leaves_the_state_before_it_alone(case: Case) -> None:
    problem = case.problem(torch.float64)
    with torch.no_grad():
        state = case.solver.init(problem, case.start(torch.float64), torch.Generator().manual_seed(0))
        for _ in range(4):
            tensors = leaves(dataclasses.replace(state, generator=None))
            before = copy.deepcopy(tensors)
            try:
                state = case.solver.step(problem, state)
            except Stalled:  # a method may be done in a step
                assert same(tensors, before)
                break
            assert same(tensors, before)


@each
def test_a_budget_that_ends_before_the_first_step_gives_an_honest_result(case: Case) -> None:
    result = (
        run(case, steps=1)
        if case.steps < 2
        else case.solver.run(case.problem(torch.float64), case.start(torch.float64), budget=Budget(seconds=1e-12))
    )
    assert result.reason is Reason.BUDGET
    assert result.steps <= 1
    assert tree.is_finite(result.solution)


@each
def test_a_problem_without_the_oracles_is_refused(case: Case) -> None:
    with pytest.raises(MissingOracle, match=type(case.solver).__name__):
        case.solver.run(Problem(), case.start(torch.float64), budget="1steps")


@each
def test_a_start_that_is_not_finite_or_not_floating_is_refused(case: Case) -> None:
    bad = tree.tree_map(lambda t: torch.full_like(t, math.nan), case.start(torch.float64))
    with pytest.raises(ValueError, match="start"):
        case.solver.run(case.problem(torch.float64), bad, budget="1steps")
    integers = tree.tree_map(lambda t: t.to(torch.int64), case.start(torch.float64))
    with pytest.raises(TypeError, match="start"):
        case.solver.run(case.problem(torch.float64), integers, budget="1steps")


@each
def test_hyper_parameters_have_ranges_that_are_checked(case: Case) -> None:
    solver = case.solver
    for field in dataclasses.fields(solver):
        value = getattr(solver, field.name)
        if isinstance(value, (bool, str)) or not isinstance(value, (int, float)):
            continue
        declared = solver.ranges.get(field.name)
        assert declared is not None, f"{field.name} has no range"
        assert isinstance(declared, (Real, Integer))
        with pytest.raises((TypeError, ValueError), match=field.name):
            dataclasses.replace(solver, **{field.name: math.nan})
        if math.isfinite(declared.low if declared.low is not None else math.inf):
            with pytest.raises((TypeError, ValueError), match=field.name):
                dataclasses.replace(solver, **{field.name: declared.low - 1})


@each
def test_the_card_says_what_the_solver_needs(case: Case) -> None:
    card = cards()[case.card]
    assert card.load() is type(case.solver)
    assert card.needs == case.solver.needs
    for name in case.solver.needs:
        assert name in case.problem(torch.float64).offers
