"""Phase retrieval and blind deconvolution without noise, whose least value is 0; a lasso of absolute deviations."""

import torch
from solver_case import Case

from steepest.core.regularizer import L1
from steepest.solve.convex import BlindDeconvolution, CompositeSum, ModelBased, PhaseRetrieval
from steepest.solve.convex.model_steps import Clipped, ProxLinear, ProxPoint, Subgradient
from steepest.solve.convex.sgd_steps import Constant, PowerDecay

TRUTH = torch.tensor([0.6, -0.8, 0.5], dtype=torch.float64)
ROWS = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def phase(dtype: torch.dtype) -> PhaseRetrieval:
    return PhaseRetrieval(ROWS.to(dtype), (ROWS @ TRUTH).square().to(dtype))


def unmeasured(dtype: torch.dtype) -> PhaseRetrieval:
    """The same without its envelope, whose gradient takes a minimization after every step."""
    problem = phase(dtype)
    problem.weak_convexity = None
    return problem


def blind(dtype: torch.dtype) -> BlindDeconvolution:
    target = (ROWS[:, :1] @ TRUTH[:1]) * (ROWS[:, 1:] @ TRUTH[1:])
    return BlindDeconvolution(ROWS[:, :1].to(dtype), ROWS[:, 1:].to(dtype), target.to(dtype))


def medians(dtype: torch.dtype) -> CompositeSum:
    """``mean |x - y_i| + |x| / 4`` in one variable for y = 1, 2, 4: least at x = 2 where it is 1 + 1/2."""
    return CompositeSum(
        lambda x, i: x.sum() + 0.0 * i,
        torch.tensor([1.0, 2.0, 4.0], dtype=dtype),
        regularizer=L1(0.25),
        weak_convexity=0.0,
    )


def start(dtype: torch.dtype) -> torch.Tensor:
    return (TRUTH + torch.tensor([0.2, 0.1, -0.2], dtype=torch.float64)).to(dtype)


CASES = (
    Case("model-based", ModelBased(step_rule=Constant(1.0)), phase, start, 0.0, 1e-8, 20),
    Case("model-based/point", ModelBased(model=ProxPoint(), step_rule=Constant(1.0)), unmeasured, start, 0.0, 1e-8, 60),
    Case("model-based/clipped", ModelBased(model=Clipped(), step_rule=Constant(1.0)), blind, start, 0.0, 1e-8, 60),
    Case(
        "model-based/subgradient",
        ModelBased(model=Subgradient(), step_rule=PowerDecay(0.05)),
        unmeasured,
        start,
        0.0,
        0.02,
        100,
    ),
    Case(
        "model-based/convex",
        ModelBased(model=ProxLinear(), step_rule=Constant(0.5), batch=3, replacement=False),
        medians,
        lambda dtype: torch.zeros(1, dtype=dtype),
        1.5,
        1e-6,
        30,
    ),
)
