"""The solvers of the room against CVXPY, scikit-learn, skglm, scnn's scaling and a transcription of the paper."""

import numpy as np
import pytest
import torch

pytest.importorskip("cvxpy")
import reference
from sklearn.linear_model import Lasso

from steepest.train.convexnet import (
    ADMM,
    ADMMRBCD,
    SCP,
    ConvexProgram,
    InteriorPoint,
    linear,
    lower_bound,
    nonconvex_objective,
    sample_features,
    sample_patterns,
    sampled_network,
    sampled_program,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(loss: object = "squared", n: int = 40, d: int = 3, outputs: int = 1, penalty: float = 0.5, **settings: bool):
    x = normal(n, d)
    y = torch.sign(normal(n, outputs, seed=1) + x[:, :1])
    return ConvexProgram(x, y, sample_patterns(x, 10, torch.Generator().manual_seed(2)), loss, penalty, **settings)


def test_plain_admm_equals_a_transcription_with_dense_matrices() -> None:
    program = make(n=15)
    _, count, d, _ = program.shape
    x, y, rho, b = program.design.numpy(), program.target[:, 0].numpy(), 0.7, program.penalty
    rows = program.rows.numpy()
    active = program.patterns.active.numpy().T.astype(float)
    f = np.concatenate([s * np.diag(a) @ x for s in (1, -1) for a in active], axis=1)
    g = np.zeros((2 * count * 15, 2 * count * d))
    for i, a in enumerate(np.concatenate([active, active])):
        g[i * 15 : (i + 1) * 15, i * d : (i + 1) * d] = np.diag(2 * a - 1) @ rows
    v, lam = np.zeros(2 * count * d), np.zeros(2 * count * d)
    s, nu = np.zeros(len(g)), np.zeros(len(g))
    matrix = np.eye(len(v)) + f.T @ f / rho + g.T @ g
    solver = ADMM(rho=rho, relaxation=1.0, adapt=False)
    state = solver.init(program, program.zeros(), torch.Generator())
    for _ in range(30):
        u = np.linalg.solve(matrix, f.T @ y / rho + v - lam + g.T @ (s - nu))
        blocks = (u + lam).reshape(2 * count, d)
        length = np.linalg.norm(blocks, axis=1, keepdims=True)
        v = (np.maximum(0, 1 - b / (rho * np.maximum(length, 1e-300))) * blocks).reshape(-1)
        s = np.maximum(0, g @ u + nu)
        lam, nu = lam + u - v, nu + g @ u - s
        state = solver.step(program, state)
        np.testing.assert_allclose(state.blocks.reshape(-1), v, atol=1e-11)
        np.testing.assert_allclose(state.dual.reshape(-1), lam, atol=1e-11)
        np.testing.assert_allclose(state.margins.movedim(0, 2).reshape(-1), s + nu, atol=1e-11)


@pytest.mark.parametrize("loss", ["squared", "logistic", "hinge", "huber", "absolute", "squared-hinge"])
@pytest.mark.parametrize("settings", [{}, {"gated": True}, {"gated": True, "joint": True}])
def test_admm_and_the_interior_point_method_agree_with_cvxpy(loss: str, settings: dict[str, bool]) -> None:
    program = make(loss, outputs=2 if settings.get("joint") else 1, **settings)
    optimum = reference.optimum(program)
    exact = InteriorPoint().run(program, program.zeros(), budget="1steps")
    assert exact.value == pytest.approx(optimum, rel=1e-6)
    assert exact.value - exact.stationarity <= optimum + 1e-6
    assert exact.stationarity <= 1e-5 * optimum
    accuracy = 1e-4 if settings or loss not in ("hinge", "absolute") else 2e-3
    result = ADMM().run(program, program.zeros(), budget="1500steps", tolerance=1e-5)
    assert optimum * (1 - 1e-7) <= result.value <= optimum * (1 + accuracy)
    assert result.value - result.stationarity <= optimum * (1 + 1e-7)
    assert float(program.violation(result.solution)) <= 1e-14


def test_admm_converges_linearly_and_meets_the_optimality_conditions() -> None:
    program = make(penalty=1.0)
    result = ADMM().run(program, program.zeros(), budget="4000steps", tolerance=1e-9)
    assert result.success
    # Conditions of Karush, Kuhn and Tucker at the last blocks: u = v, cones, and rho lam in the subgradient.
    state = result.state
    slope = program.loss.derivative(program.predict(state.blocks), program.target)
    image = -program.adjoint(slope) + program.margins_adjoint(state.rho * (-state.margins).clamp_min(0))
    length = torch.linalg.vector_norm(image, dim=2)
    assert float(length.max()) <= program.penalty * (1 + 1e-4)
    norms = program.norms(state.blocks)
    kept = norms > 1e-6
    direction = state.blocks / norms.clamp_min(1e-12)[:, :, None]
    difference = (image - program.penalty * direction).norm(dim=2)[kept]
    assert float(difference.max()) <= 1e-3
    assert float(program.violation(state.blocks)) <= 1e-4


def test_general_losses_by_splitting_equal_the_squared_loss_solved_directly() -> None:
    direct = make("squared")
    split = make(lambda z, y: 0.5 * (z - y) ** 2)
    optimum = reference.optimum(direct)
    result = ADMM().run(split, split.zeros(), budget="300steps")
    assert result.value == pytest.approx(optimum, rel=2e-3)
    assert result.value - result.stationarity <= optimum * (1 + 1e-7)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_block_coordinates_agree_with_cvxpy(loss: str) -> None:
    program = make(loss)
    result = ADMMRBCD(rho=5.0).run(program, program.zeros(), budget="150steps")
    optimum = reference.optimum(program)
    assert optimum * (1 - 1e-8) <= result.value <= optimum * 1.01
    gated = make(loss, gated=True)
    result = ADMMRBCD().run(gated, gated.zeros(), budget="80steps")
    assert result.value == pytest.approx(reference.optimum(gated), rel=1e-4)


def test_the_block_steps_keep_the_prediction_up_to_date() -> None:
    program = make()
    solver = ADMMRBCD()
    state = solver.init(program, program.zeros(), torch.Generator().manual_seed(0))
    for _ in range(5):
        state = solver.step(program, state)
    torch.testing.assert_close(state.prediction, program.predict(state.smooth), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("engine", ["torch", "sklearn"])
def test_the_sampled_program_equals_the_lasso_of_scikit_learn(engine: str) -> None:
    x = normal(50, 4)
    y = normal(50, seed=3)
    neurons, features = sample_features(x, 80, torch.Generator().manual_seed(1))
    torch.testing.assert_close(neurons.norm(dim=1), torch.ones(80, dtype=torch.float64))
    penalty = 0.8
    program = sampled_program(features, y, "squared", penalty)
    result = SCP(engine=engine, passes=50).run(program, torch.zeros(80, 1).double(), budget="400steps", tolerance=1e-9)
    peer = Lasso(alpha=penalty / 50, fit_intercept=False, tol=1e-14, max_iter=10**6).fit(features.numpy(), y.numpy())
    optimum = 0.5 * np.sum((features.numpy() @ peer.coef_ - y.numpy()) ** 2) + penalty * np.abs(peer.coef_).sum()
    assert result.value == pytest.approx(optimum, rel=1e-8)
    network = sampled_network(neurons, result.solution)
    assert float(nonconvex_objective(network, x, y, "squared", penalty).detach()) == pytest.approx(
        float(result.value), rel=1e-10
    )


def test_the_sampled_optimum_falls_with_neurons_and_stays_above_the_convex_one() -> None:
    x, penalty = normal(30, 2), 0.3
    y = torch.sign(normal(30, seed=5))
    neurons, features = sample_features(x, 300, torch.Generator().manual_seed(1))
    values = []
    for count in (10, 50, 300):
        program = sampled_program(features[:, :count], y, "logistic", penalty)
        values.append(SCP().run(program, torch.zeros(count, 1).double(), budget="500steps", tolerance=1e-7).value)
    assert values[0] >= values[1] - 1e-6 >= values[2] - 2e-6
    from steepest.train.convexnet import activation_patterns

    whole = ConvexProgram(x, y, activation_patterns(x, neurons), "logistic", penalty)
    optimum = reference.optimum(whole)
    assert optimum <= values[2] + 1e-6
    assert optimum == pytest.approx(values[2], rel=0.05)


@pytest.mark.slow
def test_gated_networks_agree_with_the_group_lasso_of_skglm() -> None:
    skglm = pytest.importorskip("skglm")
    program = make(n=60, penalty=2.0, gated=True)
    _, count, d, _ = program.shape
    wide = torch.einsum("np,nd->npd", program._active, program.design).reshape(60, -1).numpy()
    peer = skglm.GroupLasso(groups=d, alpha=program.penalty / 60, fit_intercept=False, tol=1e-10)
    peer.fit(wide, program.target[:, 0].numpy())
    coefficients = torch.as_tensor(peer.coef_).reshape(1, count, d, 1)
    theirs = float(program.value(coefficients))
    result = ADMM().run(program, program.zeros(), budget="500steps", tolerance=1e-7)
    assert result.value == pytest.approx(theirs, rel=1e-6)


def test_cut_short_after_a_few_rounds_the_value_is_still_that_of_a_network() -> None:
    program = make()
    result = ADMM().run(program, program.zeros(), budget="3steps")
    network = program.network(result.solution)
    found = nonconvex_objective(network, program.design, program.target, "squared", program.penalty)
    assert float(found.detach()) == pytest.approx(float(result.value), rel=1e-10)
    optimum = reference.optimum(program)
    assert result.value - result.stationarity <= optimum <= result.value


def test_every_dual_point_gives_a_valid_lower_bound_and_better_ones_a_tight_one() -> None:
    for loss in ("squared", "logistic", "hinge", "huber", "absolute", "squared-hinge"):
        program = make(loss)
        optimum = reference.optimum(program)
        for seed in range(4):
            dual = normal(40, 1, seed=seed)
            multipliers = normal(40, *program.shape[:2], 1, seed=seed)
            for refine in (0, 5):
                assert lower_bound(program, dual, multipliers, refine=refine).value <= optimum * (1 + 1e-8)
            assert lower_bound(program, dual, None, refine=5).value <= optimum * (1 + 1e-8)
        blocks = torch.as_tensor(reference.solve(program)[1])
        slope = program.loss.derivative(program.predict(blocks), program.target)
        if loss not in ("hinge", "absolute"):  # there a slope is not the dual solution
            # The cones matter: without projections the same dual gives less.
            tight = lower_bound(program, slope, None, refine=5)
            assert tight.value == pytest.approx(optimum, rel=1e-4)
            assert lower_bound(program, slope, None).value < tight.value
            assert tight.length <= program.penalty * (1 + 1e-12)


def test_resources_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    program = make()
    monkeypatch.setitem(sys.modules, "clarabel", None)
    with pytest.raises(ImportError, match=r"steepest\[convex\]"):
        InteriorPoint().run(program, program.zeros(), budget="1steps")
    features = sample_features(program.design, 5, torch.Generator())[1]
    lasso = sampled_program(features, program.target, "logistic", 0.1)
    with pytest.raises(ValueError, match="engine='sklearn'"):
        SCP(engine="sklearn").run(lasso, torch.zeros(5, 1).double(), budget="1steps")


def test_the_scaling_of_scnn_is_as_the_room_says() -> None:
    pytest.importorskip("scnn")
    from scnn.metrics import Metrics
    from scnn.models import ConvexGatedReLU
    from scnn.optimize import optimize_model
    from scnn.regularizers import NeuronGL1
    from scnn.solvers import RFISTA

    program = make(n=60, penalty=2.0, gated=True)
    model = ConvexGatedReLU(program.patterns.gates.numpy().T)
    model = optimize_model(
        model,
        RFISTA(model, tol=1e-10, max_iters=5000),
        Metrics(),
        program.design.numpy(),
        program.target.numpy(),
        regularizer=NeuronGL1(program.penalty / 60),
        verbose=False,
        unitize_data=False,
        return_convex=True,
    )[0]
    # It may have put the gates into another order.
    weights, gates = np.asarray(model.parameters[0])[0], np.asarray(model.G).T
    x, y = program.design.numpy(), program.target.numpy()[:, 0]
    fit = ((x @ gates.T >= 0) * (x @ weights.T)).sum(1)
    value = 0.5 * np.sum((fit - y) ** 2) + program.penalty * np.linalg.norm(weights, axis=1).sum()
    assert value == pytest.approx(reference.optimum(program), rel=1e-6)


def test_admm_does_not_wait_for_its_duals() -> None:
    """With a threshold far above what a step adds to the duals, ``rho`` grows at once; the optimum is the same."""
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    target = design.clamp_min(0).sum(1)
    program = ConvexProgram(design, target, sample_patterns(design, 12, generator), penalty=0.5)
    lazy = ADMM(adapt=False, rho=1e-3).run(program, program.zeros(), budget="6steps")
    awake = ADMM(rho=1e-3).run(program, program.zeros(), budget="6steps")
    assert not lazy.state.blocks.any()
    assert awake.state.blocks.any()
    assert awake.state.rho > 0.01
    ends = [ADMM(rho=rho).run(program, program.zeros(), budget="9000steps", tolerance=1e-4) for rho in (1e-3, 1.0)]
    assert float(ends[0].measures.value) == pytest.approx(float(ends[1].measures.value), abs=1e-4)


def test_admm_stays_asleep_where_zero_is_the_optimum() -> None:
    """There the first solution fits no better than nothing, or grows no threshold: the penalty is the answer."""
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    target = torch.randn(30, generator=generator, dtype=torch.float64)
    program = ConvexProgram(design, target, sample_patterns(design, 8, generator), penalty=1e4)
    result = ADMM().run(program, program.zeros(), budget="200steps", tolerance=1e-8)
    assert result.success
    assert not result.solution.any()


def test_conjugate_gradients_do_as_well_as_factors_where_the_right_hand_side_is_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Few ones among many minus ones, sparse features and a constant: both terms of Woodbury's identity are huge."""
    generator = torch.Generator().manual_seed(0)
    design = (torch.rand(600, 30, generator=generator) < 0.1).double()
    design = torch.cat([design, torch.ones(600, 1, dtype=torch.float64)], 1)
    target = torch.where(design[:, :3].sum(1) > 1, 1.0, -1.0).double()
    gates = sample_patterns(design, 30, generator)
    values = []
    for direct in (6000, 10):
        monkeypatch.setattr(linear, "_DIRECT", direct)
        program = ConvexProgram(design, target, gates, penalty=0.5)
        assert program.normal_equations(1.0).method == ("cg" if direct == 10 else "samples")
        result = ADMM().run(program, program.zeros(), budget="20steps")
        values.append(float(result.state.network_value))
    assert values[0] < 0.2 * 300  # 300 is that of the zero network
    assert values[1] == pytest.approx(values[0], rel=0.05)
