"""Every size gives all sides equally many settings, the full size's networks fit their data, and the toys are right."""

import pytest
import torch

from steepest.claims import Size, adabound, adamp, ademamix, induced_metric, lion, mars
from steepest.claims.characters import characters
from steepest.claims.diffgrad import TOYS, descend, values
from steepest.claims.handwriting import handwriting
from steepest.claims.lion_k_runs import lyapunov
from steepest.optim import InducedMetric, InducedMetricLog


@pytest.mark.parametrize("size", list(Size))
def test_sides_get_equally_many_settings(size: Size) -> None:
    groups = [
        lion._sides(lion._SCALES[size]),
        ademamix._sides(ademamix._SCALES[size], 10),
        adabound._sides(adabound._SCALES[size].choices),
        adamp._sides(adamp._SCALES[size]).values(),
        mars._sides(mars._SCALES[size]).values(),
        induced_metric._sides(induced_metric._SCALES[size]).values(),
    ]
    assert len({len(s["lr"]) for s in induced_metric._choices(induced_metric._SCALES[size]).values()}) == 1
    for sides in groups:
        assert len({len(side.grid) for side in sides}) == 1
        for side in sides:
            assert len({tuple(sorted(map(str, s.items()))) for s in side.grid}) == len(side.grid), "a setting twice"
            side.card().build(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)), **side.grid[0])


@pytest.mark.parametrize("size", list(Size))
def test_the_texts_state_the_number_of_settings(size: Size) -> None:
    for module, sides in (
        (lion, lion._sides(lion._SCALES[size])),
        (ademamix, ademamix._sides(ademamix._SCALES[size], 10)),
        (adamp, list(adamp._sides(adamp._SCALES[size]).values())),
        (mars, list(mars._sides(mars._SCALES[size]).values())),
        (induced_metric, list(induced_metric._sides(induced_metric._SCALES[size]).values())),
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


def test_the_functions_of_two_variables_have_their_minima_and_runs_are_as_if_alone() -> None:
    at = {"Beale": (3, 0.5), "Rosenbrock": (1, 1), "Himmelblau": (3, 2), "Ackley": (0, 0), "Rastrigin": (0, 0)}
    for name, (function, _) in induced_metric.FUNCTIONS.items():
        x, y = (torch.tensor(float(v), dtype=torch.float64) for v in at[name])
        assert 0 <= function(x, y) < 1e-6
        assert function(x + 0.1, y) > 1e-3
    function = induced_metric.FUNCTIONS["Himmelblau"][0]
    starts = torch.tensor([[1.0, 1.0], [-2.0, 3.0], [4.0, -4.0]], dtype=torch.float64)
    rates = torch.tensor([0.01, 0.02, 0.005], dtype=torch.float64)
    for side, extra in (
        ("metric", {"xi": rates}),
        ("SGD", {}),
        ("clipped SGD", {"norm": 100 * rates}),
        ("log", {"xi": rates}),
    ):
        together = induced_metric.find(side, function, starts, 300, lr=rates, **extra)
        # The same by the optimizer itself.
        for index in range(3):
            p = torch.nn.Parameter(starts[index].clone())
            xi = float(rates[index]) if "xi" in extra else 0.0
            cls = {"log": InducedMetricLog}.get(side, InducedMetric)
            opt = cls([p], lr=float(rates[index]), xi=xi, smoothing=0.0)
            reached = float("inf")
            for step in range(301):
                opt.zero_grad()
                loss = function(p[0], p[1])
                loss.backward()
                if "norm" in extra:
                    torch.nn.utils.clip_grad_norm_([p], float(extra["norm"][index]))
                if loss < induced_metric.NEAR:
                    reached = step
                    break
                opt.step(loss=loss.detach())
            assert together[index] == reached


def test_the_lyapunov_function_falls_where_the_objective_rises() -> None:
    # The check has teeth: over the same path the objective alone, H without its coupling term, goes up at times.
    runs = [lyapunov("ridge", 0.02, 8.0, seed) for seed in (3, 4, 5)]
    assert max(rise for _, rise, _ in runs) < 1e-12
    assert max(objective for _, _, objective in runs) > 1e-4
