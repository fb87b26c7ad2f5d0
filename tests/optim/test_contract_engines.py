"""The contract of every method, part 5: the engines agree, and the compiled one compiles once."""

import warnings
from typing import Any

import pytest
import torch
from optim_helpers import CASES, OURS, SHAPES, Case, assert_close, cosine, gradients, parameters, run
from torch import Tensor, nn
from torch._dynamo.utils import counters

from steepest.core import kernel
from steepest.optim import Lion, LionK

cases = pytest.mark.parametrize("case", CASES, ids=str)
#: Those whose curvature comes from outside, or that write their state in place, have no functional form.
pure_cases = pytest.mark.parametrize("case", [c for c in CASES if c.pure], ids=str)


def named(params: list[Any]) -> dict[str, Tensor]:
    return {f"p{index}": p.detach().clone() for index, p in enumerate(params)}


def shapes_for(case: Case) -> tuple[tuple[int, ...], ...]:
    return tuple(s for s in SHAPES if len(s) > 1) if case.cls.fallback is not None else SHAPES


# ------------------------------------------------------------------------------------------------ functional


@pure_cases
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.complex128], ids=str)
@pytest.mark.parametrize("maximize", [False, True])
def test_functional_equals_eager(case: Case, dtype: torch.dtype, maximize: bool) -> None:
    params = parameters(shapes_for(case), dtype if not dtype.is_complex else torch.float64)
    if dtype.is_complex:
        params = parameters(shapes_for(case), dtype)
        pure = case.cls.functional(**case.settings)
        if not case.cls.complex_as_real:
            with pytest.raises(TypeError, match="is complex"):
                pure.update(named(params), named(params), pure.init(named(params)))
            return
    opt = case.build(params, maximize=maximize)
    pure = case.cls.functional(**case.settings, maximize=maximize)
    values = named(params)
    state = pure.init(values)
    for step in gradients(params, 8):
        run(opt, params, [step])
        values, state = pure.update(values, named(step), state)
    assert state["step"] == 8
    for name, p in zip(values, params, strict=True):
        assert values[name].dtype == p.dtype
        assert_close([values[name]], [p])
        for key, kept in state[name].items():
            assert kept.dtype == opt.state[p][key].dtype
            assert_close([kept], [opt.state[p][key]])


@pure_cases
def test_functional_overrides_are_settings(case: Case) -> None:
    """An override acts as the setting itself would, also where a schedule (warm-up, base_lr) stands behind it."""
    params = parameters(shapes_for(case))
    over: dict[str, Any] = {"lr": 0.03, "weight_decay": 0.2}
    if case.method == "ademamix":
        over |= {"alpha": 3.0, "beta3": 0.99}
    opt = case.build(params)
    for group in opt.param_groups:
        group.update({k: v for k, v in over.items() if k in group})
        if "beta3" in over:
            group["betas"] = (*group["betas"][:2], over["beta3"])
    pure = case.cls.functional(**case.settings)
    values = named(params)
    state = pure.init(values)
    for step in gradients(params, 5):
        run(opt, params, [step])
        values, state = pure.update(values, named(step), state, **over)
    assert_close(values.values(), params)


@pure_cases
def test_functional_names_unknown_settings(case: Case) -> None:
    pure = case.cls.functional(**case.settings)
    values = {"w": torch.ones(2, 2)}
    with pytest.raises(TypeError, match=r"no setting 'learning_rate'; it has .*lr"):
        pure.update(values, values, pure.init(values), learning_rate=0.1)


def test_functional_muon_refuses_vectors() -> None:
    pure = OURS["muon"].load().functional()
    values = {"bias": torch.ones(3)}
    with pytest.raises(ValueError, match=r"'bias' of shape \(3,\) is not a matrix"):
        pure.update(values, values, pure.init(values))


def test_functional_curvature_is_refused() -> None:
    with pytest.raises(TypeError, match="Sophia has no functional form: its curvature comes from outside"):
        OURS["sophia"].load().functional()


QUADRATIC = [p.detach() for p in parameters(((5, 3), (5, 4), (3, 4)), seed=3)]


def trained(case: Case, lr: Any, steps: int = 4) -> Tensor:
    """A loss after some steps on a quadratic, as a function of the learning rate."""
    mix, aim, start = QUADRATIC
    pure = case.cls.functional(**{k: v for k, v in case.settings.items() if k != "lr"})
    values = {"w": start}
    state = pure.init(values)
    for _ in range(steps):
        grads = {"w": mix.T @ (mix @ values["w"] - aim)}
        values, state = pure.update(values, grads, state, lr=lr)
    return 0.5 * (mix @ values["w"] - aim).square().sum()


@pure_cases
def test_gradient_with_respect_to_the_learning_rate(case: Case) -> None:
    at, h = torch.tensor(0.01, dtype=torch.float64), 1e-7
    slope = torch.func.grad(lambda lr: trained(case, lr))(at)
    difference = (trained(case, at + h) - trained(case, at - h)) / (2 * h)
    assert slope.abs() > 1e-3
    assert torch.allclose(slope, difference, rtol=2e-5), (slope, difference)


@pure_cases
def test_many_learning_rates_at_once(case: Case) -> None:
    rates = torch.tensor([0.0, 0.001, 0.01, 0.1], dtype=torch.float64)
    together = torch.vmap(lambda lr: trained(case, lr), randomness="same")(rates)
    one_by_one = torch.stack([trained(case, float(lr)) for lr in rates])
    assert_close([together], [one_by_one], 1e-9)
    assert len(set(together.tolist())) == 4


# ------------------------------------------------------------------------------------------------ compiled


@pytest.fixture
def no_fallback() -> Any:
    """A compiler failure is an error here, not a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="torch.compile failed")
        yield
    assert not kernel.compiler_is_broken()


# Inductor of torch 2.13 cannot compile row norms (KeyError: 'buf7'), so "rows" runs eagerly, see below.
UNCOMPILED = ("rows", "nuclear", "exact", "nesterov", "top-k")
COMPILED = [c for c in CASES if c.variant not in UNCOMPILED and c.method not in ("frugal", "drop-muon")]
WIDE = ((40, 17), (3, 2, 3, 2), (5,), (130, 140), (2,), (17000,), (1,))


@pytest.mark.slow
@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize(
    ("case", "dtype"),
    [(c, torch.float64) for c in COMPILED]
    + [(c, torch.float32) for c in COMPILED if c.method in ("adabelief", "ademamix", "adabound")]
    + [(c, torch.bfloat16) for c in COMPILED if c.method == "adabelief"],
    ids=str,
)
def test_compiled_equals_eager(case: Case, dtype: torch.dtype) -> None:
    params, twins = parameters(WIDE, dtype), parameters(WIDE, dtype)
    grads = gradients(params, 5)
    opt, twin = case.build(params, engine="compiled"), case.build(twins, engine="eager")
    for t, step in enumerate(grads):
        for group in (*opt.param_groups, *twin.param_groups):
            group["lr"] = 0.01 * cosine(5)(t)
        step[4] = None if t == 2 else step[4]  # type: ignore[call-overload]
        run(opt, params, [step])
        run(twin, twins, [step])
    rtol = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-7}[dtype]
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=rtol * (1 if dtype != torch.bfloat16 else 0.1))
        for name, kept in opt.state[p].items():
            if isinstance(kept, Tensor):
                assert kept.dtype == twin.state[q][name].dtype
                torch.testing.assert_close(kept, twin.state[q][name], rtol=max(rtol, 0) * 10, atol=rtol)


@pytest.mark.slow
@pytest.mark.usefixtures("no_fallback")
def test_one_compilation_for_all_shapes_and_schedules() -> None:
    """100 steps of a cosine schedule over tensors of many sizes, then optimizers of other sizes: one kernel."""
    params = parameters(((33, 40), (5,)))
    opt = Lion(params, lr=0.01, weight_decay=0.1, engine="compiled")
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 100)
    run(opt, params, gradients(params, 1))
    before = counters["stats"]["unique_graphs"]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in gradients(params, 100):
            run(opt, params, [step])
            scheduler.step()
        for shapes in (((1,),), ((1024, 1024),), ((3000, 7), (2, 3, 4, 5), ()), ((20000,),), ((16, 1024), (17, 1024))):
            others = parameters(shapes)
            other = Lion(others, lr=0.3, betas=(0.5, 0.6), engine="compiled")
            run(other, others, gradients(others, 2))
    assert counters["stats"]["unique_graphs"] == before


@pytest.mark.slow
@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize("method", ["adamp", "auon", "reg"])
def test_whole_tensor_rules_compile_once_for_convolutions(method: str) -> None:
    """Kernels of all sizes are seen as matrices: neither their rank nor sizes of one compile anew."""
    case = next(c for c in CASES if str(c) == f"@{method}")
    params = parameters(((4, 6),))
    run(case.build(params, engine="compiled"), params, gradients(params, 1))
    with torch._dynamo.config.patch(error_on_recompile=True):
        for shape in ((8, 8), (4, 3, 3, 3), (4, 4, 3, 3), (6, 5, 1, 1), (4, 1, 3, 3), (2, 3, 4)):
            params = parameters((shape,))
            run(case.build(params, engine="compiled"), params, gradients(params, 2))


@pytest.mark.slow
@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize(("method", "first"), [("lion", (kernel.WIDTH, kernel.WIDTH)), ("reg", (4, 4))])
def test_sizes_that_are_equal_in_the_first_call_may_differ_later(
    method: str, first: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many rows as the flat pieces are wide, or as there are columns, or hyper-parameters: still one kernel."""
    monkeypatch.setattr(kernel, "_compiled", {})
    case = next(c for c in CASES if c.method == method)
    params = parameters((first,))
    run(case.build(params, engine="compiled"), params, gradients(params, 1))
    [made] = kernel._compiled.values()
    assert (made.order is not None) == (method == "lion")  # the flat kernel is called without Dynamo
    with torch._dynamo.config.patch(error_on_recompile=True):
        for shape in ((2 * kernel.WIDTH, kernel.WIDTH), (5, 7), (9, 3)):
            params, twins = parameters((shape,)), parameters((shape,))
            run(case.build(params, engine="compiled"), params, gradients(params, 2))
            run(case.build(twins, engine="eager"), twins, gradients(twins, 2))
            assert_close(params, twins)


def test_a_failing_compiler_falls_back_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        def call(*_: Any) -> None:
            raise OSError("no C++ compiler")

        return call

    monkeypatch.setattr(kernel.torch, "compile", broken)
    monkeypatch.setattr(kernel, "_compiled", {})
    monkeypatch.setattr(kernel, "_failed", set())
    monkeypatch.setattr(kernel, "_broken_compiler", False)
    params, twins = parameters(), parameters()
    grads = gradients(params, 3)
    opt, twin = Lion(params, lr=0.1, engine="compiled"), Lion(twins, lr=0.1, engine="eager")
    with pytest.warns(RuntimeWarning, match="torch.compile failed for the rule 'lion' .no C.. compiler.") as caught:
        run(opt, params, grads)
    assert len(caught) == 1
    assert kernel.compiler_is_broken()
    run(twin, twins, grads)
    assert_close(params, twins)


def test_one_kernel_that_does_not_compile_leaves_the_others_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def compile_some(kernel: Any, **_: Any) -> Any:
        def call(*_: Any) -> None:
            raise torch._dynamo.exc.InternalTorchDynamoError("KeyError: 'buf7'")

        compiled.append(kernel.__name__)
        return call if kernel.__name__ == "lionk_kernel" else kernel

    monkeypatch.setattr(kernel.torch, "compile", compile_some)
    monkeypatch.setattr(kernel, "_compiled", {})
    monkeypatch.setattr(kernel, "_failed", set())
    kernels = ((LionK, "lionk_kernel"), (Lion, "lion_kernel"))

    def train() -> None:
        for cls, _ in kernels * 2:
            params, twins = parameters(((4, 5),)), parameters(((4, 5),))
            grads = gradients(params, 2)
            run(cls(params, lr=0.1, engine="compiled"), params, grads)
            run(cls(twins, lr=0.1, engine="eager"), twins, grads)
            assert_close(params, twins)

    with pytest.warns(RuntimeWarning, match="for the rule 'lionk' .KeyError: 'buf7'.; for it") as caught:
        train()
    assert len(caught) == 1
    assert set(compiled) == {name for _, name in kernels}
    assert not kernel.compiler_is_broken()


def test_errors_of_a_rule_are_not_taken_for_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        def call(*_: Any) -> None:
            raise ZeroDivisionError("a bug")

        return call

    monkeypatch.setattr(kernel.torch, "compile", broken)
    monkeypatch.setattr(kernel, "_compiled", {})
    params = parameters()
    with pytest.raises(ZeroDivisionError):
        run(Lion(params, engine="compiled"), params, gradients(params, 1))
    assert not kernel.compiler_is_broken()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@cases
@pytest.mark.parametrize("which", ["eager", "compiled"])
def test_cuda_equals_cpu(case: Case, which: str) -> None:
    twins = parameters(WIDE)
    params = [nn.Parameter(p.detach().cuda()) for p in twins]
    grads = gradients(twins, 6)
    opt, twin = case.build(params, engine=which), case.build(twins, engine="eager")
    run(opt, params, [[g.cuda() for g in step] for step in grads])
    run(twin, twins, grads)
    assert_close([p.cpu() for p in params], twins, 1e-9)
    again = case.build([nn.Parameter(p.detach()) for p in twins])
    again.load_state_dict(opt.state_dict())  # saved on one device, loaded on another
    first = again.state[again.param_groups[0]["params"][0]]
    assert all(v.device.type == "cpu" for v in first.values() if isinstance(v, Tensor))
