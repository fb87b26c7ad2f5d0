"""The contract of every method, part 3: dtypes, memory layouts, empty, scalar and complex tensors, memory."""

import gc
from typing import Any

import pytest
import torch
from optim_helpers import CASES, SHAPES, Case, assert_close, assert_same, assign, gradients, parameters, run, snapshot
from torch import Tensor, nn

cases = pytest.mark.parametrize("case", CASES, ids=str)


@cases
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_the_float32_computation_rounded(case: Case, dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype)
    twins = [nn.Parameter(p.detach().float()) for p in params]
    opt, twin = case.build(params), case.build(twins)
    for step in gradients(params, 6):
        run(opt, params, [step])
        run(twin, twins, [[g.float() for g in step]])
        for q in twins:
            q.data.copy_(q.data.to(dtype))  # the parameter is all that is rounded
        assert_same([p.detach().float() for p in params], [q.detach() for q in twins])
    states = [v for p in params for v in opt.state[p].values() if isinstance(v, Tensor)]
    assert states
    assert all(v.dtype == torch.float32 for v in states)
    assert_same(snapshot(opt, params)[len(params) :], snapshot(twin, twins)[len(params) :])


@cases
def test_float32_follows_float64(case: Case) -> None:
    params, twins = parameters(dtype=torch.float32), parameters(dtype=torch.float64)
    for p, q in zip(params, twins, strict=True):
        q.data.copy_(p.data)
    grads = gradients(params, 6)
    opt, twin = case.build(params), case.build(twins)
    run(opt, params, grads)
    run(twin, twins, [[g.double() for g in step] for step in grads])
    # Products of orthogonalizations are in bfloat16 where the machine has it.
    tolerance = 2e-2 if case.method in ("muon", "drop-muon", "marsshampoo") and not case.variant else 1e-5
    assert_close([p.double() for p in params], twins, tolerance)


def _channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t.clone()


def _transposed(t: Tensor) -> Tensor:
    return t.mT.contiguous().mT if t.dim() > 1 else t.clone()


def _every_other(t: Tensor) -> Tensor:
    wide = torch.zeros(*t.shape[:-1], 2 * t.shape[-1], dtype=t.dtype)
    view = wide[..., ::2]
    view.copy_(t)
    return view


def _inner_block(t: Tensor) -> Tensor:
    wide = torch.zeros([n + 3 for n in t.shape], dtype=t.dtype)
    view = wide[tuple(slice(1, n + 1) for n in t.shape)]
    view.copy_(t)
    return view


def _contiguous(t: Tensor) -> Tensor:
    return t.clone(memory_format=torch.contiguous_format)


def _broadcast(t: Tensor) -> Tensor:
    return t[:1].expand(t.shape)


LAYOUTS = (_contiguous, _channels_last, _transposed, _every_other, _inner_block)
LARGE = ((130, 131), (16, 8, 12, 13), (20000,))


@cases
@pytest.mark.parametrize("layout", LAYOUTS[1:], ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("of_gradient", [*LAYOUTS, None], ids=lambda f: f.__name__.strip("_") if f else "same")
def test_memory_layouts(case: Case, layout: Any, of_gradient: Any) -> None:
    twins = parameters()
    params = [nn.Parameter(layout(p.detach())) for p in twins]
    strides = [p.stride() for p in params]
    grads = gradients(twins, 4)
    opt, twin = case.build(params), case.build(twins)
    for step in grads:
        for p, g in zip(params, step, strict=True):
            p.grad = (of_gradient or layout)(g)
        opt.step()
        run(twin, twins, [step])
    assert_close(params, twins)
    assert strides == [p.stride() for p in params]


@cases
@pytest.mark.parametrize("layout", LAYOUTS[1:], ids=lambda f: f.__name__.strip("_"))
def test_memory_layouts_of_large_tensors(case: Case, layout: Any) -> None:
    """Large enough for rows of their own in the flat kernels, with a ragged end."""
    twins = parameters(LARGE)
    params = [nn.Parameter(layout(p.detach())) for p in twins]
    opt, twin = case.build(params), case.build(twins)
    for step in gradients(twins, 2):
        run(opt, params, [step])
        run(twin, twins, [step])
    assert_close(params, twins)


@cases
def test_large_tensors_equal_their_small_pieces(case: Case) -> None:
    """An elementwise rule may not depend on how its tensors are cut."""
    from steepest.core.rule import Rule

    rule: Rule = case.cls.algorithm
    settings = {"kappa": "l1", **case.settings}
    if case.cls.fallback is not None or rule.granularity_of(torch.zeros(2, 2), settings) != "elementwise":
        pytest.skip("not elementwise")
    whole = parameters(((20011,),))
    pieces = [nn.Parameter(t.clone()) for t in whole[0].detach().split(3001)]
    opt, twin = case.build(whole), case.build(pieces)
    for (g,) in gradients(whole, 3):
        run(opt, whole, [[g]])
        run(twin, pieces, [list(g.split(3001))])
    assert_close(whole, [torch.cat([p.detach() for p in pieces])])


@cases
def test_broadcast_gradients(case: Case) -> None:
    params, twins = parameters(), parameters()
    opt, twin = case.build(params), case.build(twins)
    for step in gradients(params, 3):
        for p, q, g in zip(params, twins, step, strict=True):
            p.grad, q.grad = _broadcast(g), _broadcast(g).contiguous()
        opt.step()
        twin.step()
    assert_close(params, twins)


@cases
def test_empty_and_scalar_parameters(case: Case) -> None:
    shapes = ((), (0,), (3, 4), (0, 3), (1,), (2, 0, 3), (1, 1))
    params = parameters(shapes)
    opt = case.build(params)
    full = [p for p in params if p.numel()]
    as_vectors = [nn.Parameter(p.detach().clone().reshape(p.shape or (1,))) for p in full]
    twin = case.build(as_vectors)
    for step in gradients(params, 4):
        run(opt, params, [step])
        run(twin, as_vectors, [[g.reshape(g.shape or (1,)) for g in step if g.numel()]])
    assert_close([p.detach().reshape(p.shape or (1,)) for p in full], as_vectors)
    twin_state = opt.state_dict()
    again = case.build(parameters(shapes))
    again.load_state_dict(twin_state)
    assert again.param_groups[0]["lr"] == opt.param_groups[0]["lr"]


@cases
def test_only_empty_parameters(case: Case) -> None:
    params = [nn.Parameter(torch.zeros(0, 3))]
    opt = case.build(params)
    assign(params, [torch.zeros(0, 3)])
    opt.step()
    assert params[0].shape == (0, 3)


@cases
def test_complex_parameters(case: Case) -> None:
    """As pairs of reals, as in torch.optim; refused where the rule looks at whole tensors."""
    params = parameters(dtype=torch.complex128)
    rules = [rule for rule in (case.cls.algorithm, case.cls.fallback) if rule is not None]
    if not all(rule.complex_as_real for rule in rules):
        with pytest.raises(TypeError, match=f"{case.cls.__name__}: parameter 0 is complex .torch.complex128"):
            case.build(params)
        return
    twins = [nn.Parameter(torch.view_as_real(p.detach()).clone()) for p in params]
    grads = gradients(params, 5)
    opt, twin = case.build(params), case.build(twins)
    run(opt, params, grads)
    run(twin, twins, [[torch.view_as_real(g) for g in step] for step in grads])
    assert_close([torch.view_as_real(p) for p in params], twins)
    conjugated = parameters(((3,),), torch.complex128)
    conjugated[0].grad = torch.ones(3, dtype=torch.complex128).mul(1j).conj()
    alike = parameters(((3,),), torch.complex128)
    alike[0].grad = torch.ones(3, dtype=torch.complex128).mul(-1j)
    case.build(conjugated).step()
    case.build(alike).step()
    assert_same([conjugated[0].detach()], [alike[0].detach()])


@cases
def test_no_tensor_is_left_over(case: Case) -> None:
    params = parameters(SHAPES)
    opt = case.build(params)
    grads = gradients(params, 1)

    def tensors() -> int:
        gc.collect()
        return sum(isinstance(o, Tensor) for o in gc.get_objects())

    run(opt, params, grads * 3)
    before = tensors()
    run(opt, params, grads * 100)
    assert tensors() <= before
