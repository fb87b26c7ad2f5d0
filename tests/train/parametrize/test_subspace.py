"""Random subspaces against explicit matrices, finite differences, full training, and a search with a known answer."""

import copy
import io
from typing import Any, get_args

import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.optim import Lion
from steepest.train.parametrize import Subspace, intrinsic_dimension, mup
from steepest.train.parametrize.projections import FastfoodProjection, Kind, project

KINDS = get_args(Kind)
kinds = pytest.mark.parametrize("kind", KINDS)
DOUBLE = torch.float64


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    return torch.randn(7, 4, generator=draw, dtype=DOUBLE), torch.randint(0, 3, (7,), generator=draw)


def matrix_of(space: Subspace) -> Tensor:
    """All of P, column by column."""
    columns = [[p(e) for p in space.projections] for e in torch.eye(len(space.z), dtype=space.z.dtype)]
    return torch.stack([torch.cat(column) for column in columns], 1)


def flat(parameters: Any) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in parameters])


def descend(module: nn.Module, optimizer: torch.optim.Optimizer, count: int = 4) -> nn.Module:
    x, y = batch()
    for _ in range(count):
        optimizer.zero_grad()
        functional.cross_entropy(module(x), y).backward()
        optimizer.step()
    return module


@kinds
@pytest.mark.parametrize("rows", [1, 3, 10, 64, 100])
def test_columns_have_norm_one(kind: Kind, rows: int) -> None:
    columns = min(rows, 8)
    matrices = [
        torch.stack([project(kind, rows, columns, DOUBLE, (seed,))(e) for e in torch.eye(columns, dtype=DOUBLE)], 1)
        for seed in range(300 if kind == "fastfood" else 3)
    ]
    norms = torch.stack(matrices).norm(dim=1)
    if kind != "fastfood" or rows & (rows - 1) == 0:
        torch.testing.assert_close(norms, torch.ones_like(norms))
    assert float(norms.square().mean()) == pytest.approx(1, abs=0.1)


def test_lengths_are_kept_on_average() -> None:
    z = torch.randn(20, dtype=DOUBLE)
    for kind in KINDS:
        squares = [project(kind, 300, 20, DOUBLE, (seed,))(z).square().sum() for seed in range(400)]
        assert float(torch.stack(squares).mean() / z.square().sum()) == pytest.approx(1, abs=0.05), kind


def test_sparse_columns_have_as_many_entries_in_different_places() -> None:
    for rows in (1, 2, 3, 5, 90, 1000):
        projection: Any = project("sparse", rows, 1, DOUBLE, (rows,))
        count = max(1, round(rows**0.5))
        column = projection(torch.ones(1, dtype=DOUBLE))
        assert int((column != 0).sum()) == count
        torch.testing.assert_close(column[column != 0].abs(), torch.full((count,), count**-0.5, dtype=DOUBLE))
        assert int(projection.places.max()) < rows
    hit = torch.zeros(10)
    for seed in range(600):
        places: Any = project("sparse", 10, 1, DOUBLE, (seed,))
        hit[places.places] += 1
    assert torch.allclose(hit / hit.sum(), torch.full((10,), 0.1), atol=0.03), "all rows are as likely"


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (16, 5), (11, 4), (6, 23), (1, 1)])
def test_fastfood_is_the_product_of_its_factors(rows: int, columns: int) -> None:
    projection = FastfoodProjection(rows, columns, DOUBLE, torch.Generator().manual_seed(1))
    size = len(projection.order)
    assert size == max(2 ** (rows - 1).bit_length(), 2 ** (columns - 1).bit_length())
    hadamard = torch.tensor(scipy.linalg.hadamard(size), dtype=DOUBLE)
    permutation = torch.eye(size, dtype=DOUBLE)[projection.order]
    signs = torch.diag(projection.signs)
    explicit = (hadamard @ torch.diag(projection.gains) @ permutation @ hadamard)[:rows, :columns] @ signs
    found = torch.stack([projection(e) for e in torch.eye(columns, dtype=DOUBLE)], 1)
    torch.testing.assert_close(found, explicit)
    # The paper's factor, of gains of any length.
    gains = 3 * projection.gains
    factor = (size * gains.square().sum()).sqrt() * (rows / size) ** 0.5
    torch.testing.assert_close(projection.gains, gains / factor)


@kinds
@pytest.mark.parametrize("structure_aware", [False, True])
def test_gradient_is_the_transpose_of_the_projection(kind: Kind, structure_aware: bool) -> None:
    model, (x, y) = network(), batch()
    space = Subspace(model, 9, kind, structure_aware, seed=4)
    with torch.no_grad():
        space.z.copy_(torch.randn(len(space.z), dtype=DOUBLE))
        if space.scales is not None:
            space.scales.copy_(torch.rand(4, dtype=DOUBLE) + 0.5)
    functional.cross_entropy(space(x), y).backward()
    twin = network()
    twin.load_state_dict({name: p.detach() for name, p in space.moved().items()})
    functional.cross_entropy(twin(x), y).backward()
    slope = torch.cat([p.grad.reshape(-1) for p in twin.parameters() if p.grad is not None])
    matrix = matrix_of(space)
    sizes = [p.numel() for p in twin.parameters()]
    assert space.z.grad is not None
    if space.scales is not None:
        assert space.scales.grad is not None
        parts = zip((matrix @ space.z).detach().split(sizes), slope.split(sizes), strict=True)
        torch.testing.assert_close(space.scales.grad, torch.stack([part @ g for part, g in parts]))
        slope = slope * space.scales.detach().repeat_interleave(torch.tensor(sizes))
    torch.testing.assert_close(space.z.grad, matrix.mT @ slope)
    # Finite differences along a direction of all that is trained.
    ways = [torch.randn_like(p) for p in space.parameters()]
    expected = sum(
        float((p.grad * w).sum()) for p, w in zip(space.parameters(), ways, strict=True) if p.grad is not None
    )
    values = []
    for t in (1e-6, -2e-6):
        with torch.no_grad():
            for p, w in zip(space.parameters(), ways, strict=True):
                p.add_(w, alpha=t)
            values.append(float(functional.cross_entropy(space(x), y)))
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(expected, rel=1e-5)


@kinds
@pytest.mark.parametrize("structure_aware", [False, True])
def test_it_starts_at_the_model_itself(kind: Kind, structure_aware: bool) -> None:
    model, (x, _) = network(), batch()
    expected = model(x)
    assert torch.equal(Subspace(model, 6, kind, structure_aware)(x), expected)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_with_an_orthogonal_matrix_of_full_dimension_it_is_full_training(momentum: float) -> None:
    plain, model = network(), network()
    count = sum(p.numel() for p in model.parameters())
    orthogonal = torch.linalg.qr(torch.randn(count, count, dtype=DOUBLE))[0]
    space = Subspace(model, count, orthogonal)
    descend(space, torch.optim.SGD(space.parameters(), lr=0.3, momentum=momentum))
    descend(plain, torch.optim.SGD(plain.parameters(), lr=0.3, momentum=momentum))
    torch.testing.assert_close(flat(space.moved().values()), flat(plain.parameters()))


@kinds
def test_structure_aware_each_tensor_has_a_projection_of_its_own(kind: Kind) -> None:
    space = Subspace(network(), 10, kind, structure_aware=True)
    assert len(space.z) == 6
    assert space.scales is not None
    torch.testing.assert_close(space.scales.detach(), torch.ones(4, dtype=DOUBLE))
    parts = matrix_of(space).split([20, 5, 15, 3])
    if kind != "fastfood":
        for part in parts:
            torch.testing.assert_close(part.norm(dim=0), torch.ones(6, dtype=DOUBLE))
    assert not torch.equal(parts[0][:3], parts[3])


@kinds
def test_the_seed_alone_makes_the_projection(kind: Kind) -> None:
    first = matrix_of(Subspace(network(), 7, kind, seed=1))
    model = network(9)
    state = torch.get_rng_state()
    assert torch.equal(matrix_of(Subspace(model, 7, kind, seed=1)), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(matrix_of(Subspace(network(), 7, kind, seed=2)), first)


def test_parameters_are_what_is_trained() -> None:
    model = network()
    model[0].bias.requires_grad_(False)  # type: ignore[index, union-attr]
    start = copy.deepcopy(model.state_dict())
    space = Subspace(model, 8, structure_aware=True)
    assert [name for name, _ in space.named_parameters()] == ["z", "scales"]
    assert space.scales is not None
    assert len(space.scales) == 3
    assert len(space.z) == 5
    decayed = torch.optim.AdamW(space.groups(weight_decay=0.5), lr=0.1)
    assert [g["weight_decay"] for g in decayed.param_groups] == [0.5, 0.0]
    descend(space, decayed, 2)
    descend(space, Lion(space.parameters(), lr=0.01), 2)
    memory = torch.optim.LBFGS(space.parameters())

    def closure() -> Tensor:
        memory.zero_grad()
        loss = functional.cross_entropy(space(batch()[0]), batch()[1])
        loss.backward()
        return loss

    memory.step(closure)
    assert all(torch.equal(v, start[k]) for k, v in model.state_dict().items()), "the start stays where it is"
    assert float(space.z.detach().abs().max()) > 0


def test_merging_keeps_the_function_and_frees_the_parameters() -> None:
    model, (x, _) = network(), batch()
    model[2].bias.requires_grad_(False)  # type: ignore[index, union-attr]
    space = Subspace(model, 6, "dense", structure_aware=True)
    descend(space, torch.optim.Adam(space.parameters(), lr=0.1))
    expected = space(x)
    merged = space.merge()
    assert merged is model
    torch.testing.assert_close(merged(x), expected)
    torch.testing.assert_close(space(x), expected)
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, False]


@kinds
def test_saved_and_resumed_it_goes_on_as_it_would_have(kind: Kind) -> None:
    space = Subspace(network(), 6, kind, structure_aware=True, seed=3)
    optimizer = torch.optim.Adam(space.parameters(), lr=0.1)
    descend(space, optimizer)
    buffer = io.BytesIO()
    torch.save([space.state_dict(), optimizer.state_dict()], buffer)
    buffer.seek(0)
    saved = torch.load(buffer)
    twin = Subspace(network(5), 6, kind, structure_aware=True, seed=3)
    twin.load_state_dict(saved[0])
    other = torch.optim.Adam(twin.parameters(), lr=0.1)
    other.load_state_dict(saved[1])
    descend(space, optimizer)
    descend(twin, other)
    assert torch.equal(flat(space.moved().values()), flat(twin.moved().values()))
    assert not any("projections" in name for name in space.state_dict()), "what follows from the seed is not saved"
    with pytest.raises(ValueError, match=r"the state is of a subspace of .*'seed': 3.* and this one is of .*'seed': 4"):
        Subspace(network(), 6, kind, structure_aware=True, seed=4).load_state_dict(space.state_dict())


def test_a_given_matrix_is_told_from_others() -> None:
    matrix = torch.randn(43, 5)
    space = Subspace(network(), 5, matrix)
    Subspace(network(1), 5, matrix.clone()).load_state_dict(space.state_dict())
    with pytest.raises(ValueError, match="the state is of a subspace of"):
        Subspace(network(1), 5, 2 * matrix).load_state_dict(space.state_dict())


def test_statistics_masks_and_shared_parameters_are_the_models() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(6, 4)
            self.norm = nn.BatchNorm1d(4)
            self.drop = nn.Dropout(0.5)
            self.head = nn.Linear(4, 6, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.drop(self.norm(self.embedding(tokens))))

    torch.manual_seed(0)
    plain = Shared()
    tokens = torch.randint(0, 6, (20,))
    space = Subspace(copy.deepcopy(plain), 5)
    assert space.sizes == [24, 4, 4]
    torch.manual_seed(1)
    expected = plain(tokens)
    torch.manual_seed(1)
    torch.testing.assert_close(space(tokens), expected)
    assert int(space.model.norm.num_batches_tracked) == 1  # type: ignore[union-attr, arg-type]
    torch.testing.assert_close(space.model.norm.running_mean, plain.norm.running_mean)  # type: ignore[union-attr]
    with torch.no_grad():
        space.z.add_(1.0)
    space.eval()
    twin = copy.deepcopy(plain).eval()
    moved = space.moved()
    assert set(moved) == {"embedding.weight", "norm.weight", "norm.bias"}
    twin.load_state_dict({**twin.state_dict(), **moved, "head.weight": moved["embedding.weight"]})
    torch.testing.assert_close(space(tokens), twin(tokens))
    space.merge()
    assert space.model.head.weight is space.model.embedding.weight  # type: ignore[union-attr]


def test_half_precision_and_a_loss_that_is_not_finite() -> None:
    model = nn.Linear(4, 3).bfloat16()
    space = Subspace(model, 3)
    assert space.z.dtype is torch.float32
    out = space(torch.ones(2, 4, dtype=torch.bfloat16))
    assert out.dtype is torch.bfloat16
    (out.sum() * torch.inf).backward()
    assert space.z.grad is not None
    assert not space.z.grad.isfinite().all(), "what is not finite is the optimizer's to refuse"


def test_a_model_in_mup_stays_in_it() -> None:
    model = network()
    mup(model, nn.Sequential(nn.Linear(4, 1), nn.Tanh(), nn.Linear(1, 3)))
    x, _ = batch()
    expected = model(x)
    assert torch.equal(Subspace(model, 4)(x), expected)


def test_the_search_finds_a_known_dimension() -> None:
    tried = []

    def fit(module: nn.Module, seed: int) -> float:
        if isinstance(module, Subspace):
            tried.append((len(module.z), seed))
            return 0.85 if len(module.z) >= 21 else 0.3 + len(module.z) / 100 + 0.01 * seed
        return 0.9

    state = torch.get_rng_state()
    found = intrinsic_dimension(network, fit, start=2, precision=1.01, seeds=(0, 1))
    assert (found.dimension, found.below) == (21, 20)
    assert found.baseline == 0.9
    assert found.target == pytest.approx(0.81)
    assert [d for d, seed in tried if seed == 0][:5] == [2, 4, 8, 16, 32], "doubling, then bisection"
    assert found.scores[16] == pytest.approx(0.3 + 0.16 + 0.005)
    assert torch.equal(torch.get_rng_state(), state), "models are built beside the caller's random numbers"
    coarse = intrinsic_dimension(network, fit, start=2, precision=2.0)
    assert (coarse.dimension, coarse.below) == (32, 16)
    missed = intrinsic_dimension(network, fit, start=2, limit=15)
    assert (missed.dimension, missed.below) == (None, 15)
    full = intrinsic_dimension(network, fit, baseline=0.1, start=1)
    assert full.dimension == 1
    top = intrinsic_dimension(network, fit, baseline=2.0, start=100)
    assert (top.dimension, top.below) == (None, 43)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="Subspace: dimension must be an integer >= 1 and <= 43, got 44"):
        Subspace(network(), 44)
    with pytest.raises(ValueError, match="Subspace: dimension must be an integer >= 5 and <= 43, got 4"):
        Subspace(network(), 4, structure_aware=True)
    with pytest.raises(ValueError, match="Subspace: kind must be one of 'dense', 'sparse', 'fastfood', got 'random'"):
        Subspace(network(), 4, "random")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"kind must be a matrix of 43 x 4 .* got a tensor of shape \(43, 5\)"):
        Subspace(network(), 4, torch.zeros(43, 5))
    with pytest.raises(TypeError, match="Subspace: structure_aware must be True or False, got 1"):
        Subspace(network(), 4, structure_aware=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="seed must be an integer >= 0, got -1"):
        Subspace(network(), 4, seed=-1)
    with pytest.raises(ValueError, match="no trainable parameters"):
        Subspace(nn.Tanh(), 4)
    space = Subspace(network(), 4)
    with pytest.raises(ValueError, match="no trainable parameters"):
        Subspace(space.model, 4)
    with pytest.raises(ValueError, match=r"threshold must be a finite number in \(0, 1\], got 0"):
        intrinsic_dimension(network, lambda m, s: 1.0, threshold=0)
    with pytest.raises(ValueError, match=r"precision must be .* got 1"):
        intrinsic_dimension(network, lambda m, s: 1.0, precision=1)
    with pytest.raises(ValueError, match="limit must be an integer >= 8 or None, got 3"):
        intrinsic_dimension(network, lambda m, s: 1.0, limit=3)
    with pytest.raises(ValueError, match="seeds must be at least one"):
        intrinsic_dimension(network, lambda m, s: 1.0, seeds=())
    for score in (float("nan"), -1.0, float("inf")):
        with pytest.raises(ValueError, match="positive, finite mean for training all parameters, got"):
            intrinsic_dimension(network, lambda m, s, score=score: score)
    with pytest.raises(ValueError, match=r"baseline must be positive .* got 0\.0"):
        intrinsic_dimension(network, lambda m, s: 1.0, baseline=0.0)
    with pytest.raises(ValueError, match="weight_decay must be"):
        space.groups(-1.0)
