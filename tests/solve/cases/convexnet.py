"""Two-layer ReLU networks as convex programs; the optima come from a formulation in CVXPY, solved by Clarabel to 1e-9.

``tests/train/convexnet/reference.py`` has that formulation, and ``test_program.py`` recomputes these numbers with it.
"""

import torch
from solver_case import Case

from steepest.solve.convex.problem import LinearModel
from steepest.train.convexnet.admm import ADMM
from steepest.train.convexnet.admm_rbcd import ADMMRBCD
from steepest.train.convexnet.interior_point import InteriorPoint
from steepest.train.convexnet.patterns import sample_patterns
from steepest.train.convexnet.program import ConvexProgram
from steepest.train.convexnet.scp import SCP, sample_features, sampled_program


def program(loss: str, dtype: torch.dtype = torch.float64, gated: bool = False, joint: bool = False) -> ConvexProgram:
    """20 samples in the plane with a bias, two outputs where joint, eight draws of patterns."""
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(20, 2, generator=generator, dtype=torch.float64), torch.ones(20, 1)], 1)
    noise = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    y = torch.sign(x[:, :1] * x[:, 1:2] + 0.3 * noise)[:, : 1 + joint]
    patterns = sample_patterns(x, 8, torch.Generator().manual_seed(1))
    return ConvexProgram(x.to(dtype), y.to(dtype), patterns, loss, 0.2, gated=gated, joint=joint)


def lasso(dtype: torch.dtype = torch.float64) -> LinearModel:
    """The same data with 12 random neurons."""
    whole = program("squared")
    features = sample_features(whole.design, 12, torch.Generator().manual_seed(2))[1]
    return sampled_program(features.to(dtype), whole.target.to(dtype), "squared", 0.2)


#: By the key of a case: ``(loss, gated, joint)``, and the optimum.
OPTIMA = {
    ("squared", False, False): 3.9003479721,
    ("squared", True, False): 1.7890598523,
    ("squared", True, True): 3.7015549699,
    ("hinge", False, False): 4.9643555875,
    ("logistic", False, False): 7.9456240529,
    "lasso": 4.8965967293,
}


def zeros(loss: str = "squared", gated: bool = False, joint: bool = False):
    return lambda dtype: program(loss, dtype, gated, joint).zeros()


CASES = (
    *(
        Case(
            name=f"convexnet-admm/{loss}{'-gated' * gated}{'-joint' * joint}",
            solver=ADMM(),
            problem=lambda dtype, key=(loss, gated, joint): program(key[0], dtype, key[1], key[2]),
            start=zeros(loss, gated, joint),
            optimum=OPTIMA[loss, gated, joint],
            accuracy=accuracy,
            steps=steps,
            accuracy32=2e-3,
            bounds=True,
        )
        for loss, gated, joint, accuracy, steps in (
            ("squared", False, False, 1e-3, 500),
            ("squared", True, False, 1e-8, 200),
            ("squared", True, True, 1e-8, 200),
            ("hinge", False, False, 2e-2, 500),
            ("logistic", False, False, 1e-3, 400),
        )
    ),
    Case(
        name="convexnet-admm-rbcd",
        solver=ADMMRBCD(rho=3.0),
        problem=lambda dtype: program("squared", dtype),
        start=zeros(),
        optimum=OPTIMA["squared", False, False],
        accuracy=3e-2,
        steps=120,
        accuracy32=5e-2,
        bounds=True,
    ),
    Case(
        name="convexnet-interior-point",
        solver=InteriorPoint(),
        problem=lambda dtype: program("squared", dtype),
        start=zeros(),
        optimum=OPTIMA["squared", False, False],
        accuracy=1e-7,
        steps=1,
        bounds=True,
    ),
    *(
        Case(
            name=f"convexnet-scp/{engine}",
            solver=SCP(engine=engine),
            problem=lasso,
            start=lambda dtype: torch.zeros(12, 1, dtype=dtype),
            optimum=OPTIMA["lasso"],
            accuracy=1e-8,
            steps=200,
            bounds=True,
        )
        for engine in ("torch", "sklearn")
    ),
)
