"""Every size gives all sides equally many settings, the full size's networks fit their data, and the toys are right."""

import re
import sys

import pytest
import torch
from planted import planted

from steepest.analyze import directional_sharpness
from steepest.claims import (
    Size,
    amsgrad,
    ano,
    drop_muon,
    frugal,
    induced_metric,
    lion,
    load,
    psgd,
    registry,
    shampoo,
    trust_region,
)
from steepest.claims.autoencoder import autoencoder
from steepest.claims.characters import characters
from steepest.claims.diffgrad import TOYS, descend, values
from steepest.claims.experiment import part_of_budget
from steepest.claims.gradient_noise import Stack, _ClipEach
from steepest.claims.handwriting import handwriting
from steepest.claims.lion_k_runs import lyapunov
from steepest.core.layers import layers_of
from steepest.core.lmo import NORMS, dual, norm
from steepest.optim import ExtrapolatedTrustRegion, InducedMetric, InducedMetricLog, NonEuclideanTrustRegion

#: Claim -> the function that gives its sides at a size.
SIDES = {name: file.sides for name, file in planted().items() if hasattr(file, "sides")}


@pytest.mark.parametrize("name", registry())
def test_the_sides_of_every_claim_are_planted(name: str) -> None:
    if hasattr(sys.modules[load(name).judge.__module__], "_sides"):
        path = f"tests/claims/planted/{name.replace('-', '_')}.py"
        assert name in SIDES, f"{path} lacks sides(size): all sides that the claim compares"


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("size", list(Size))
def test_sides_get_equally_many_settings(size: Size, name: str) -> None:
    sides = list(SIDES[name](size))
    assert len({len(side.grid) for side in sides}) == 1
    for side in sides:
        assert len({tuple(sorted(map(str, s.items()))) for s in side.grid}) == len(side.grid), "a setting twice"
        side.card().build(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)), **side.grid[0])


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("size", list(Size))
def test_the_texts_state_the_number_of_settings(size: Size, name: str) -> None:
    count = len(next(iter(SIDES[name](size))).grid)
    number = {1: "one", 2: "two"}.get(count, str(count))
    stated = load(name).sizes[size]
    assert re.search(rf"\b{number} (setting|learning rate){'s' if count > 1 else ''}\b", stated), stated


@pytest.mark.parametrize("size", list(Size))
def test_the_rivals_of_the_induced_metric_get_equally_many_settings_on_functions(size: Size) -> None:
    assert len({len(s["lr"]) for s in induced_metric._choices(induced_metric._SCALES[size]).values()}) == 1


def test_the_networks_of_the_full_size_fit_their_data() -> None:
    for network, shape in (("perceptron", (4, 784)), ("convolutional", (4, 1, 28, 28))):
        model = handwriting(network, full=True).build(0)  # type: ignore[arg-type]
        assert model(torch.zeros(shape)).shape == (4, 10)
    assert ano.noisy(True, 0.1).build(0)(torch.zeros(4, 1, 28, 28)).shape == (4, 10)
    for kind in amsgrad._NETWORKS:
        assert amsgrad._network(kind, "mnist").build(0)(torch.zeros(4, 784)).shape == (4, 10)
    scale = lion._SCALES[Size.FULL]
    model = characters(batch=2, width=scale.width, layers=scale.layers, context=scale.context).build(0)
    assert model(torch.zeros(2, scale.context, dtype=torch.long)).shape == (2, scale.context, 96)
    assert 4.5e6 < sum(p.numel() for p in model.parameters()) < 5.5e6


def test_the_autoencoder_of_the_full_size_fits_its_data() -> None:
    model = autoencoder(full=True).build(0)
    assert model(torch.zeros(3, 784)).shape == (3, 784)
    assert sum(p.numel() for p in model.parameters()) == 437_664


def test_budgets_are_interpolated() -> None:
    losses = [8.0, 4.0, 2.0, 1.5, 1.0]  # at 1/8, 1/4, 1/2, 3/4 and 1
    assert shampoo.budget_for(4.0, losses) == pytest.approx(0.25)
    assert shampoo.budget_for(3.0, losses) == pytest.approx(0.25 * 2**0.5)
    assert shampoo.budget_for(9.0, losses) == pytest.approx(0.125)  # the smallest is enough
    assert shampoo.budget_for(0.9, losses) == 2.0  # the largest is not
    assert shampoo.budget_for(3.0, [8.0, 4.0, 2.0, 9.0, 9.0]) == pytest.approx(0.25 * 2**0.5)  # it was there before
    assert shampoo.budget_for(3.0, [8.0, None, 2.0, 1.5, 1.0]) is None


def test_the_networks_of_drop_muon_have_the_layers_that_its_claim_tells_of() -> None:
    scale = drop_muon._SCALES[Size.FULL]
    for model, layers in (
        (drop_muon._convolutional(scale.channels, 28), 4),
        (drop_muon._perceptron(scale.width, 784), 7),
    ):
        assert model(torch.zeros(2, 784)).shape == (2, 10)
        assert len(layers_of(model)) == layers


def test_steps_are_billed_at_median_prices_or_at_those_of_another_side() -> None:
    own, full = drop_muon._Prices(), drop_muon._Prices()
    for slow in (1.0, 1.0, 50.0):  # a pause plays no part
        own.note(0, slow, 4.0, 8.0)
        own.note(1, slow, 2.0, 3.0)
        full.note(0, slow, 5.0, 10.0)
    assert own.bill([0, 1, 1]) == [13.0, 19.0, 25.0]
    assert own.bill([0, 1, 1], update_of=full) == [15.0, 28.0, 41.0]
    assert own.bill([0, 1, 1], backward_of=full) == [14.0, 23.0, 32.0]


def test_frugal_keeps_the_bytes_that_its_density_promises() -> None:
    task = characters(batch=2, width=32, layers=2, context=16, windows=2, corpus=100_000)
    kept = {side.name: frugal._kept(task, side)[1] for side in frugal._sides(frugal._SCALES[Size.LAPTOP])}
    assert kept["FRUGAL"] == 2.0
    assert kept["FRUGAL, no state"] == 0.0
    assert kept["FRUGAL, blocks"] == 2.0  # in the mean over all turns
    assert kept["GaLore"] == pytest.approx(2.0 + 4 / 12)  # and eight singular vectors of each matrix
    assert kept["AdamW"] == pytest.approx(8.0, abs=0.01)


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


def test_online_problems_of_all_step_sizes_run_as_if_alone() -> None:
    """Boxes scaled by 1/a with the step size 1/sqrt(t) are a unit box with a/sqrt(t)."""
    rates = torch.tensor([0.3, 1.0], dtype=torch.float64)
    height, betas = 5.0, (0.5, 0.7)

    def gradients(t: int) -> torch.Tensor:
        return torch.full_like(rates, height if t % 3 == 1 else -1.0)

    together = amsgrad.play("Adam", betas, rates, gradients, 200)
    for k, rate in enumerate(rates.tolist()):
        x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        opt = torch.optim.Adam([x], lr=1.0, betas=betas, eps=1e-8)
        regret, visited = 0.0, []
        for t in range(1, 201):
            opt.param_groups[0]["lr"] = rate / t**0.5
            x.grad = gradients(t)[:1]
            regret += float(x.grad * (x.detach() + 1))
            opt.step()
            x.data.clamp_(-1, 1)
            visited.append(float(x.detach()))
        assert float(together.positions[-1, k]) == pytest.approx(visited[-1], abs=1e-6)
        assert float(together.regret[-1, k]) == pytest.approx(regret / 200, abs=1e-6)
        assert float(together.tail[k]) == pytest.approx(sum(visited[-20:]) / 20, abs=1e-6)


def test_noise_is_added_to_every_gradient_and_is_the_same_for_equal_seeds() -> None:
    found = {}
    for noise in (0.0, 0.2):
        model = ano.noisy(False, noise).build(0).eval()  # no dropout
        for again in range(2):
            torch.manual_seed(3)
            model.zero_grad()
            model(torch.ones(2, 1, 8, 8)).square().sum().backward()
            found[noise, again] = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert torch.equal(found[0.2, 0], found[0.2, 1])
    added = found[0.2, 0] - found[0.0, 0]
    assert float(added.std()) == pytest.approx(0.2, rel=0.05)
    assert float(added.mean()) == pytest.approx(0.0, abs=0.01)


PARTS = (0.25, 0.5, 1.0)


def test_the_part_of_the_steps_is_read_off_between_the_budgets_and_beyond() -> None:
    losses = [3.0, 2.5, 2.0]  # at a quarter, a half, and all of the steps: half a nat per doubling
    for target, part in ((3.5, 0.25), (3.0, 0.25), (2.5, 0.5), (2.25, 2**-0.5), (2.0, 1.0), (1.75, 2**0.5), (0.0, 2.0)):
        assert part_of_budget(target, PARTS, losses) == pytest.approx(part)
    assert part_of_budget(2.0, PARTS, [2.5, 2.2, 2.2]) == 2.0  # no slope to draw on
    assert part_of_budget(None, PARTS, losses) is None
    assert part_of_budget(2.0, PARTS, [3.0, None, 2.0]) is None


def test_sharpness_is_the_quadratic_form_of_the_full_hessian() -> None:
    generator = torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)).double()
    x, y = torch.randn(8, 3, generator=generator).double(), torch.arange(8) % 2
    params = list(net.parameters())
    sizes = [p.numel() for p in params]

    def at(flat: torch.Tensor) -> torch.Tensor:
        pieces = zip(flat.split(sizes), net.named_parameters(), strict=True)
        values = {name: piece.view(p.shape) for piece, (name, p) in pieces}
        return torch.nn.functional.cross_entropy(torch.func.functional_call(net, values, (x,)), y)

    point = torch.cat([p.detach().flatten() for p in params])
    hessian = torch.autograd.functional.hessian(at, point)
    directions = [[torch.randn(p.shape, generator=generator).double() for p in params] for _ in range(3)]
    for u, found in zip(
        directions,
        directional_sharpness(lambda: at(torch.cat([p.flatten() for p in params])), params, directions),
        strict=False,
    ):
        flat = torch.cat([v.flatten() for v in u])
        assert found == pytest.approx(float(flat @ hessian @ flat / flat.square().sum()), rel=1e-9)


def test_a_stack_trains_every_network_as_if_alone() -> None:
    x = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))

    def after(seeds: list[int], inputs: torch.Tensor) -> torch.Tensor:
        model = Stack("he", seeds, 6)
        opt = _ClipEach(torch.optim.SGD(model.parameters(), lr=0.1), 0.05)
        for _ in range(3):
            opt.zero_grad()
            model(inputs).square().sum().backward()
            opt.step()
        return torch.cat([p.detach().flatten(1) for p in model.parameters()], 1)

    together = after([7, 8], x)
    torch.testing.assert_close(together[:1], after([7], x[:1]))
    torch.testing.assert_close(together[1:], after([8], x[1:]))
    assert not Stack("zero", [1], 6).weights[0].any()


@pytest.mark.parametrize("name", NORMS)
def test_the_constants_of_the_theorem_are_those_of_the_norms(name: str) -> None:
    """``||x||_F <= c ||x||`` and ``||x||_* <= c ||x||_F``, with equality somewhere, hence both rho and L."""
    factor = trust_region._FACTOR[name]
    draws = torch.randn(300, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eye, ones, corner = torch.eye(6, 8), torch.ones(6, 8), torch.zeros(6, 8)
    corner[0, 0] = 1.0
    ratios = []
    for x in (*draws, eye.double(), ones.double(), corner.double()):
        assert x.norm() <= factor * norm(name, x) + 1e-12
        assert dual(name, x) <= factor * x.norm() + 1e-12
        ratios.append(float(dual(name, x) / x.norm()))
    assert max(ratios) == pytest.approx(factor, rel=1e-9)


@pytest.mark.parametrize("kind", ["gaussian", "skewed"])
def test_the_noise_has_mean_zero_and_its_variance(kind: str) -> None:
    noise = trust_region._noise(kind, [1, 2], 4000)
    assert noise.shape == (4000, 2, 6, 8)
    assert float(noise.mean().abs()) < 0.01 * trust_region._SIGMA
    assert float(noise.square().sum((2, 3)).mean()) == pytest.approx(trust_region._SIGMA**2, rel=0.02)
    assert not torch.equal(noise[:, 0], noise[:, 1])


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize(
    ("method", "cls"), [("trust region", NonEuclideanTrustRegion), ("extrapolated", ExtrapolatedTrustRegion)]
)
def test_the_runs_of_the_trust_region_are_those_of_the_optimizers(method: str, cls: type, name: str) -> None:
    noise = trust_region._noise("gaussian", [3, 4], 20)
    sizes = trust_region._run(method, name, noise, 0.1, 0.8, decay=True)
    problem = trust_region._problem()
    for seed in range(2):
        p = torch.zeros(6, 8, dtype=torch.float64, requires_grad=True)
        opt = cls([p], momentum=0.8, norm=name)
        for step in range(20):
            opt.param_groups[0]["lr"] = 0.1 * (1 - step / 20)
            p.grad = problem.gradient(p.detach()) + noise[step, seed]
            opt.step()
        at = opt.state[p].get("point", p.detach())
        torch.testing.assert_close(dual(name, problem.gradient(at)), sizes[-1, seed])


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
