"""Every size gives all sides equally many settings, the full size's networks fit their data, and the toys are right."""

import pytest
import torch

from steepest.claims import Size, adabound, adamp, ademamix, lion, psgd
from steepest.claims.characters import characters
from steepest.claims.diffgrad import TOYS, descend, values
from steepest.claims.handwriting import handwriting
from steepest.claims.lion_k_runs import lyapunov


@pytest.mark.parametrize("size", list(Size))
def test_sides_get_equally_many_settings(size: Size) -> None:
    groups = [
        lion._sides(lion._SCALES[size]),
        ademamix._sides(ademamix._SCALES[size], 10),
        adabound._sides(adabound._SCALES[size].choices),
        adamp._sides(adamp._SCALES[size]).values(),
    ]
    for sides in groups:
        assert len({len(side.grid) for side in sides}) == 1
        for side in sides:
            assert len({tuple(sorted(map(str, s.items()))) for s in side.grid}) == len(side.grid), "a setting twice"
            side.card().build(torch.nn.Linear(2, 2), **side.grid[0])


@pytest.mark.parametrize("size", list(Size))
def test_the_texts_state_the_number_of_settings(size: Size) -> None:
    for module, sides in (
        (lion, lion._sides(lion._SCALES[size])),
        (ademamix, ademamix._sides(ademamix._SCALES[size], 10)),
        (adamp, list(adamp._sides(adamp._SCALES[size]).values())),
    ):
        stated = module.CLAIM.sizes[size]
        assert f"{len(sides[0].grid)} settings" in stated or "one setting" in stated


def test_the_networks_of_the_full_size_fit_their_data() -> None:
    for network, shape in (("perceptron", (4, 784)), ("convolutional", (4, 1, 28, 28))):
        model = handwriting(network, full=True).build(0)  # type: ignore[arg-type]
        assert model(torch.zeros(shape)).shape == (4, 10)
    scale = lion._SCALES[Size.FULL]
    model = characters(batch=2, width=scale.width, layers=scale.layers, context=scale.context).build(0)
    assert model(torch.zeros(2, scale.context, dtype=torch.long)).shape == (2, scale.context, 96)
    assert 4.5e6 < sum(p.numel() for p in model.parameters()) < 5.5e6


def test_the_toy_functions_are_continuous_where_their_pieces_meet() -> None:
    # Except F2 at -0.9, where the printed pieces miss each other by 0.02.
    for name, at, jump in (("F1", 0.0, 0.0), ("F2", -0.9, 0.02), ("F3", -0.5, 0), ("F3", 0.4, 0), ("F3", 0.5, 0)):
        around = torch.tensor([at - 1e-9, at + 1e-9], dtype=torch.float64)
        low, high = TOYS[name](around)
        assert abs(float(low - high)) <= jump + 1e-6


def test_all_starts_and_functions_descend_as_if_alone() -> None:
    starts = torch.tensor([-1.0, 0.3, 1.2], dtype=torch.float64)
    together = descend("diffGrad", 0.1, starts)
    alone = descend("diffGrad", 0.1, starts[1:2])
    torch.testing.assert_close(together[:, :, 1:2], alone)
    assert values(together[-1]).shape == (3, 3)


def test_the_lyapunov_function_falls_where_the_objective_rises() -> None:
    # The check has teeth: over the same path the objective alone, H without its coupling term, goes up at times.
    runs = [lyapunov("ridge", 0.02, 8.0, seed) for seed in (3, 4, 5)]
    assert max(rise for _, rise, _ in runs) < 1e-12
    assert max(objective for _, _, objective in runs) > 1e-4


def test_psgd_and_its_rivals_choose_from_equally_many_rates() -> None:
    assert {len(set(rates)) for rates in psgd._RATES.values()} == {7}
    assert all(scale.rates <= 7 for scale in psgd._SCALES.values())


def test_the_minima_of_psgds_problems_are_known() -> None:
    for make in psgd.MAKERS.values():
        function, start, least = make(3)
        assert torch.equal(start, make(3)[1])
        x = torch.nn.Parameter(start.clone())
        opt = torch.optim.LBFGS([x], 1, 500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe")

        def closure(x: torch.nn.Parameter = x, function: object = function) -> torch.Tensor:
            x.grad = None
            loss: torch.Tensor = function(x)  # type: ignore[operator]
            loss.backward()
            return loss

        opt.step(closure)
        assert float(function(x.detach())) == pytest.approx(least, abs=1e-9)


def test_newtons_method_in_disguise_is_recognized() -> None:
    """Without noise BFGS is exact after a few pairs and PSGD approaches; a minimization that fails is told."""
    found = psgd.estimates(0.0, 3, 1500, seed=1)
    assert found["bfgs"][-1] < 1e-8
    assert found["psgd"][-1] < 5e-3
    run = psgd.minimize(psgd.rosenbrock(1), "sgd", 10.0, 50)
    assert not run.solved
    assert run.steps == run.gradients == 50
    assert psgd.minimize(psgd.logistic(1), "lbfgs", 1.0, 500).solved
