"""The run loop: why runs end, what they record, what they refuse."""

import math
import threading
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from steepest.core.budget import Budget
from steepest.core.oracle import OracleCounts, counting, tally
from steepest.core.problem import MissingOracle, SmoothProblem
from steepest.core.ranges import Real
from steepest.core.result import Reason
from steepest.core.run import Report
from steepest.core.solver import Solver, State
from steepest.core.stopping import Measures, Stalled, Tolerance


@dataclass(frozen=True)
class FixedStep(Solver[SmoothProblem, State]):
    """Gradient descent with a fixed step size: one value and one gradient per step, one of each at the start."""

    step_size: float = 0.25

    needs = frozenset({"value", "gradient"})
    ranges = {"step_size": Real(low=0.0, low_open=True)}

    def init(self, problem: SmoothProblem, start: Any, generator: torch.Generator) -> State:
        value, gradient = problem.value_and_gradient(start)
        return State(point=start, value=value, stationarity=gradient.norm())

    def step(self, problem: SmoothProblem, state: State) -> State:
        point = state.point - self.step_size * problem.gradient(state.point)
        return State(point=point, value=problem.value(point), stationarity=2 * point.norm())


SQUARE = SmoothProblem(lambda x: x.square().sum())  # a step of size s multiplies x by 1 - 2 s
START = torch.tensor([1.0, -2.0], dtype=torch.float64)


def test_a_run_that_converges() -> None:
    result = FixedStep().run(SQUARE, START, budget="100steps", tolerance=1e-3)
    steps = math.ceil(math.log2(2 * math.sqrt(5) / 1e-3))  # the point is halved in every step
    assert (result.reason, result.steps, result.success) == (Reason.CONVERGED, steps, True)
    assert torch.equal(result.solution, START / 2**steps)
    assert result.value == 5 / 4**steps
    assert result.stationarity is not None
    assert result.stationarity <= 1e-3 < 2 * result.stationarity
    assert "stationarity" in result.message
    assert result.calls == {"gradient": steps + 1, "value": steps + 1}


def test_a_run_that_has_arrived_at_the_start_makes_no_step() -> None:
    result = FixedStep().run(SQUARE, torch.zeros(2), budget="100steps", tolerance=0.0)
    assert (result.reason, result.steps) == (Reason.CONVERGED, 0)


def test_a_target_value_and_feasibility() -> None:
    result = FixedStep().run(SQUARE, START, budget="100steps", tolerance=Tolerance(value=0.1))
    assert (result.reason, result.steps) == (Reason.CONVERGED, 3)
    assert Tolerance(stationarity=1e-2).met(Measures(1.0, 1e-3, 0.5)) is None
    assert Tolerance(stationarity=1e-2).met(Measures(1.0, 1e-3, None)) is not None
    assert Tolerance(stationarity=1e-2, feasibility=1.0).met(Measures(1.0, 1e-3, 0.5)) is not None
    assert Tolerance(stationarity=1e-2).met(Measures(1.0, math.nan, None)) is None


@pytest.mark.parametrize(
    ("budget", "steps"),
    [("4steps", 4), (Budget(calls={"gradient": 4}), 3), (Budget(steps=9, calls={"value": 3}), 2)],
)
def test_a_run_that_uses_up_its_budget(budget: Budget | str, steps: int) -> None:
    result = FixedStep().run(SQUARE, START, budget=budget, tolerance=1e-12)
    assert (result.reason, result.steps, result.success) == (Reason.BUDGET, steps, False)
    assert torch.equal(result.solution, START / 2**steps)
    assert "used up" in result.message


@pytest.mark.parametrize("budget", [Budget(seconds=1e-12), Budget(calls={"gradient": 1})])
def test_a_budget_that_ends_before_the_first_step_gives_the_start(budget: Budget) -> None:
    result = FixedStep().run(SQUARE, START, budget=budget, tolerance=1e-12)
    assert (result.reason, result.steps, result.success) == (Reason.BUDGET, 0, False)
    assert torch.equal(result.solution, START)
    assert result.value == 5.0
    assert result.trace.to_dict()["step"] == [0]
    assert result.calls == {"gradient": 1, "value": 1}


def test_seconds_are_those_of_the_method_alone() -> None:
    import time

    def slow(report: Report) -> None:
        time.sleep(0.02)

    result = FixedStep().run(SQUARE, START, budget=Budget(steps=10), callbacks=[slow])
    assert 0 < result.seconds < 0.1
    assert result.trace.seconds == sorted(result.trace.seconds)

    result = FixedStep(1e-9).run(SQUARE, START, budget="0.05s", record_every=10**9)
    assert result.reason is Reason.BUDGET
    assert 0.05 <= result.seconds < 1.0


def test_divergence_above_a_multiple_returns_the_last_state_below_it() -> None:
    # step size 2 multiplies the value 5 by 9 in every step; the limit is 5 + 1000 * 5
    result = FixedStep(2.0).run(SQUARE, START, budget="100steps", divergence=1000.0)
    assert (result.reason, result.steps, result.success) == (Reason.DIVERGED, 3, False)
    assert result.value == 5 * 9**3
    assert torch.equal(result.solution, START * -27)
    assert "exceeds 5005" in result.message
    assert result.trace.step == [0, 1, 2, 3]


def test_divergence_to_infinity_returns_a_finite_iterate() -> None:
    result = FixedStep(2.0).run(SQUARE, START, budget="10000steps", divergence=None)
    assert result.reason is Reason.DIVERGED
    assert torch.isfinite(result.solution).all()
    assert result.value is not None
    assert 1e300 < result.value < math.inf
    assert "inf" in result.message


@dataclass(frozen=True)
class LosesPoint(FixedStep):
    """The point becomes NaN in step 3, while the solver reports no value at all."""

    def init(self, problem: SmoothProblem, start: Any, generator: torch.Generator) -> State:
        return State(point=start)

    def step(self, problem: SmoothProblem, state: State) -> State:
        point = state.point + 1
        return State(point=torch.full_like(point, math.nan) if point[0] == 4 else point)


def test_an_iterate_that_is_not_finite_is_found_without_a_value() -> None:
    result = LosesPoint().run(SQUARE, START, budget="10steps")
    assert (result.reason, result.steps, result.value) == (Reason.DIVERGED, 2, None)
    assert torch.equal(result.solution, START + 2)
    assert result.trace.value == [None, None, None]


def test_a_tolerance_on_what_is_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="LosesPoint does not measure stationarity"):
        LosesPoint().run(SQUARE, START, budget="10steps", tolerance=1e-3)


@dataclass(frozen=True)
class GivesUp(FixedStep):
    """Stalls in its fourth step."""

    def step(self, problem: SmoothProblem, state: State) -> State:
        following = super().step(problem, state)
        if float(following.value) < 5 / 4**3:  # type: ignore[arg-type]
            raise Stalled("no way down")
        return following


def test_a_solver_that_stalls() -> None:
    result = GivesUp().run(SQUARE, START, budget="10steps", tolerance=1e-9)
    assert (result.reason, result.steps, result.message) == (Reason.STALLED, 3, "no way down")
    assert result.calls == {"gradient": 5, "value": 5}  # the step that failed is paid for
    assert not result.success


def test_callbacks_see_every_step_and_may_stop() -> None:
    seen: list[Report] = []
    also: list[int] = []

    def stop_at_three(report: Report) -> bool:
        seen.append(report)
        return report.step == 3

    result = FixedStep().run(
        SQUARE, START, budget="10steps", callbacks=[stop_at_three, lambda report: also.append(report.step)]
    )
    assert (result.reason, result.steps) == (Reason.STOPPED, 3)
    assert [report.step for report in seen] == also == [1, 2, 3]
    assert [report.measures.value for report in seen] == [5 / 4, 5 / 16, 5 / 64]
    assert seen[1].calls == {"gradient": 3, "value": 3}
    assert torch.equal(seen[1].state.point, START / 4)


def test_the_trace_records_at_intervals_and_at_both_ends() -> None:
    start = torch.tensor([1 / 3, 0.0], dtype=torch.float64)
    assert FixedStep().run(SQUARE, start, budget="1steps").trace.to_pandas()["value"][0] == (1 / 3) ** 2
    trace = FixedStep().run(SQUARE, START, budget="7steps", record_every=3).trace
    assert trace.step == [0, 3, 6, 7]
    assert trace.value == [5 / 4**k for k in (0, 3, 6, 7)]
    assert trace.calls == {"gradient": [1, 4, 7, 8], "value": [1, 4, 7, 8]}
    assert trace.feasibility == [None] * 4
    frame = trace.to_pandas()
    assert list(frame.columns) == [
        *("step", "seconds", "value", "stationarity", "feasibility"),
        *("calls.gradient", "calls.value"),
    ]
    assert frame["value"].tolist() == trace.value
    assert frame["feasibility"].isna().all()
    columns = trace.to_dict()
    columns["step"].append(99)
    assert len(trace) == 4  # a copy
    assert all(type(x) is float for x in columns["value"] + columns["seconds"])


@dataclass(frozen=True)
class Talks(FixedStep):
    """Sends bytes from its second step on, and measures with oracle calls of its own."""

    def step(self, problem: SmoothProblem, state: State) -> State:
        if state.point[0] < 1:
            tally("bytes", 100)
        return super().step(problem, state)

    def measure(self, problem: SmoothProblem, state: State) -> Measures:
        return Measures.of(problem.value(state.point), problem.gradient(state.point).norm())


def test_other_amounts_are_counted_and_measurements_are_not() -> None:
    trace = Talks().run(SQUARE, START, budget="3steps").trace
    assert trace.calls == {"bytes": [0, 0, 100, 200], "gradient": [1, 2, 3, 4], "value": [1, 2, 3, 4]}
    with counting(OracleCounts()) as outer:  # nor are those of a run inside a run
        Talks().run(SQUARE, START, budget="3steps")
    assert outer.snapshot() == {"bytes": 200, "gradient": 4, "value": 4}


def test_the_start_is_copied_and_the_global_generator_is_left_alone() -> None:
    start = torch.nn.Parameter(START.clone())
    before = torch.get_rng_state()
    result = FixedStep().run(SQUARE, start, budget="3steps")
    assert torch.equal(start, START)
    assert torch.equal(torch.get_rng_state(), before)
    assert not result.solution.requires_grad
    FixedStep().run(SQUARE, start, budget=Budget(seconds=1e-12)).solution.zero_()  # made no step
    assert torch.equal(start, START)


def test_runs_in_threads_on_one_problem_do_not_mix() -> None:
    results: dict[int, Any] = {}

    def work(steps: int) -> None:
        results[steps] = FixedStep().run(SQUARE, START, budget=Budget(steps=steps))

    threads = [threading.Thread(target=work, args=(50 * k,)) for k in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for steps, result in results.items():
        assert result.calls == {"gradient": steps + 1, "value": steps + 1}
        assert torch.equal(result.solution, START / 2.0**steps)


def test_hyper_parameters_are_checked_at_construction() -> None:
    for bad, error in ((0.0, ValueError), (math.nan, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="FixedStep: step_size must be"):
            FixedStep(step_size=bad)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        FixedStep().step_size = 1.0  # type: ignore[misc]

    @dataclass(frozen=True)
    class Misspelled(FixedStep):
        ranges = {"stepsize": Real()}

    with pytest.raises(TypeError, match="stepsize"):
        Misspelled()


def test_a_solver_names_what_the_problem_lacks() -> None:
    @dataclass(frozen=True)
    class Proximal(FixedStep):
        needs = frozenset({"gradient", "prox"})

    with pytest.raises(MissingOracle, match=r"Proximal needs 'gradient', 'prox'.*does not offer 'prox'"):
        Proximal().run(SQUARE, START, budget="1steps")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"problem": lambda x: x}, TypeError, "problem must be a Problem"),
        ({"start": [1.0]}, TypeError, "start must be"),
        ({"start": torch.tensor([math.inf])}, ValueError, "start must be finite"),
        ({"problem": SmoothProblem(lambda x: x.log().sum())}, ValueError, "cannot begin.*nan"),
        ({"budget": "0s"}, ValueError, "budget must be"),
        ({"budget": 5}, TypeError, "budget must be"),
        ({"tolerance": -1.0}, ValueError, "stationarity must be"),
        ({"tolerance": math.nan}, ValueError, "stationarity must be"),
        ({"record_every": 0}, ValueError, "record_every must be"),
        ({"divergence": 0.0}, ValueError, "divergence must be"),
        ({"resume": "maybe"}, ValueError, "resume must be one of"),
        ({"resume": "must"}, ValueError, "needs a checkpoint"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "either seed or generator"),
        ({"generator": 1}, TypeError, "generator must be"),
        ({"checkpoint_every": Budget(calls={"value": 3})}, ValueError, "checkpoint_every must be"),
    ],
)
def test_bad_arguments_of_run(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    whole = {"problem": SQUARE, "start": START, "budget": "1steps"} | arguments
    with pytest.raises(error, match=message):
        FixedStep().run(whole.pop("problem"), whole.pop("start"), **whole)


def test_an_empty_tolerance_is_refused() -> None:
    with pytest.raises(ValueError, match="stationarity or value is needed"):
        Tolerance()


def test_the_progress_bar_shows_on_request_only(capsys: pytest.CaptureFixture[str]) -> None:
    FixedStep().run(SQUARE, START, budget="3steps")
    assert capsys.readouterr() == ("", "")
    FixedStep().run(SQUARE, START, budget="3steps", progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "FixedStep" in err


def test_a_missing_rich_matters_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert FixedStep().run(SQUARE, START, budget="1steps").steps == 1
    with pytest.raises(ModuleNotFoundError, match="pip install rich"):
        FixedStep().run(SQUARE, START, budget="1steps", progress=True)
