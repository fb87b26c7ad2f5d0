"""Composite problems with regularizers for points of one or several tensors."""

import pytest
import torch

from steepest.core.problem import MissingOracle
from steepest.solve.convex import (
    L1,
    CompositeProblem,
    GroupSparseEnvelope,
    L2Ball,
    LinearModel,
    Nonnegative,
    Simplex,
    TotalVariation,
    TwoValued,
)


def smooth(x: dict[str, torch.Tensor]) -> torch.Tensor:
    return (x["w"] - 1).square().sum() + x["b"].square().sum()


def test_a_dict_of_regularizers_serves_a_dict_of_tensors() -> None:
    problem = CompositeProblem(smooth, {"w": L1(0.5), "b": None})
    point = {"w": torch.tensor([2.0, -0.1]), "b": torch.tensor(3.0)}
    problem.check_start(point)
    assert problem.value(point).item() == pytest.approx(1 + 1.21 + 9 + 0.5 * 2.1)
    assert problem.regularizer_value(point).item() == pytest.approx(1.05)
    moved = problem.prox(point, 0.4)
    torch.testing.assert_close(moved["w"], torch.tensor([1.8, 0.0]))
    torch.testing.assert_close(moved["b"], point["b"])
    assert "lmo" not in problem.offers
    other = CompositeProblem(smooth, {"w": L1(0.6), "b": None})
    assert problem.fingerprint() != other.fingerprint()


def test_sets_for_each_tensor_offer_an_oracle() -> None:
    problem = CompositeProblem(smooth, {"w": Simplex(), "b": L2Ball(2.0)})
    assert {"prox", "lmo"} <= problem.offers
    corner = problem.lmo({"w": torch.tensor([1.0, -1.0]), "b": torch.tensor(1.0)})
    torch.testing.assert_close(corner["w"], torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(corner["b"], torch.tensor(-2.0))


def test_without_a_regularizer_any_point_goes() -> None:
    problem = CompositeProblem(smooth)
    point = {"w": torch.ones(2), "b": torch.ones(())}
    problem.check_start(point)
    assert problem.prox(point, 0.1) is point
    assert problem.regularizer_value(point) == 0


def test_what_does_not_fit_is_said() -> None:
    point = {"w": torch.ones(2), "b": torch.ones(())}
    with pytest.raises(TypeError, match="dict, list or tuple of regularizers"):
        CompositeProblem(smooth, L1(0.1)).check_start(point)
    with pytest.raises(ValueError, match="must have the structure of"):
        CompositeProblem(smooth, {"w": L1(0.1)}).check_start(point)
    with pytest.raises(TypeError, match=r"regularizer must be .* got 0.1"):
        CompositeProblem(smooth, 0.1)  # type: ignore[arg-type]


def test_a_regularizer_without_a_prox_offers_none() -> None:
    problem = CompositeProblem(lambda x: x.square().sum(), TwoValued())
    assert "prox" not in problem.offers
    with pytest.raises(MissingOracle, match="prox"):
        problem.require({"prox"}, "a solver")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "regularizer", [L1(0.1), Nonnegative(), GroupSparseEnvelope(0.3, 2, 2), TotalVariation(0.1)], ids=repr
)
def test_the_gap_is_finite_and_no_less_than_what_is_missing(dtype: torch.dtype, regularizer: object) -> None:
    """Rounding must not put the scaled dual point outside the domain, where the gap is infinite."""
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(40, 8, generator=generator, dtype=dtype)
    problem = LinearModel(design, torch.randn(40, generator=generator, dtype=dtype), "squared", regularizer)  # type: ignore[arg-type]
    x, best = torch.zeros(8, dtype=dtype), torch.zeros(8, dtype=dtype)
    assert problem.lipschitz is not None
    for _ in range(300):
        best = problem.prox(best - problem.smooth_gradient(best) / problem.lipschitz, 1 / problem.lipschitz)
    optimum = problem.value(best)
    for _ in range(20):
        x = problem.prox(x - problem.smooth_gradient(x) / problem.lipschitz, 1 / problem.lipschitz)
        gap = problem.gap(x)
        assert torch.isfinite(gap)
        assert gap >= problem.value(x) - optimum - 1e-5 * (dtype == torch.float32) - 1e-12
    if not isinstance(regularizer, (TotalVariation, Nonnegative)):  # their domains have no interior ray
        assert problem.gap(best) <= (1e-10 if dtype == torch.float64 else 1e-5)
