"""Data-efficient augmentation: which examples are chosen, against gradients that are formed and distances by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from steepest.core.facility_location import facility_location
from steepest.core.operators import per_sample_gradients
from steepest.train.generalize import SubsetAugmentation


def problem(counts: tuple[int, ...] = (30, 20, 10)) -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    y = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    y = y[torch.randperm(len(y))]
    x = torch.randn(len(y), 5, dtype=torch.float64) + y[:, None]
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, len(counts))).double(), x, y


def by_hand(gradients: Tensor, y: Tensor, budgets: list[int]) -> tuple[list[int], list[int]]:
    """Facility location per class on the distances of given gradients, and the sizes by a loop over the examples."""
    found: dict[int, int] = {}
    for c, count in enumerate(budgets):
        own = [i for i in range(len(y)) if y[i] == c]
        d = torch.stack([(gradients[own] - gradients[i]).reshape(len(own), -1).norm(dim=1) for i in own])
        chosen = [own[j] for j in facility_location(d.max() - d, count)[0].tolist()]
        found |= dict.fromkeys(chosen, 0)
        for place, i in enumerate(own):
            found[i if i in chosen else min(chosen, key=lambda j: d[place, own.index(j)])] += 1
    order = sorted(found)
    return order, [found[i] for i in order]


@pytest.mark.parametrize("with_head", [False, True])
def test_against_gradients_that_are_formed(with_head: bool) -> None:
    model, x, y = problem()
    loss = functional.cross_entropy
    if with_head:
        every = per_sample_gradients(model, loss, x, y)
        g = torch.cat([every["2.weight"].reshape(len(y), -1), every["2.bias"]], dim=1)
    else:
        logits = model(x).detach().requires_grad_()
        (g,) = torch.autograd.grad(loss(logits, y, reduction="sum"), logits)
    subset = SubsetAugmentation(0.2).select(model, [(x, y)], head=model[2] if with_head else None)
    indices, sizes = by_hand(g, y, [4, 4, 4])
    assert subset.indices.tolist() == indices
    assert subset.sizes.tolist() == sizes


def test_weights_are_sizes_and_sum_to_what_they_stand_for() -> None:
    model, x, y = problem()
    for budget in ("equal", "proportional"):
        subset = SubsetAugmentation(0.25, budget).select(model, [(x, y)])
        assert len(subset.indices) == 15
        assert int(subset.sizes.sum()) == len(y)
        for c in range(3):
            assert int(subset.sizes[y[subset.indices] == c].sum()) == int((y == c).sum())
        assert subset.weights.mean().item() == pytest.approx(1)
        assert torch.allclose(subset.weights, subset.sizes / subset.sizes.double().mean())


@pytest.mark.parametrize(
    ("fraction", "budget", "expected"),
    [
        (0.25, "equal", [5, 5, 5]),
        (0.75, "equal", [18, 17, 10]),  # what the small class has not, goes to the others
        (0.25, "proportional", [8, 5, 2]),
        (0.05, "proportional", [1, 1, 1]),
        (0.001, "equal", [1, 0, 0]),
    ],
)
def test_budgets_of_classes(fraction: float, budget: Any, expected: list[int]) -> None:
    model, x, y = problem()
    subset = SubsetAugmentation(fraction, budget).select(model, [(x, y)])
    assert torch.bincount(y[subset.indices], minlength=3).tolist() == expected


def test_everything_is_chosen_with_weight_one() -> None:
    model, x, y = problem()
    x[3] = x[y == y[3]][0]  # a duplicate keeps its own weight
    subset = SubsetAugmentation(1.0).select(model, [(x, y)])
    assert subset.indices.tolist() == list(range(60))
    assert subset.weights.tolist() == [1.0] * 60


def test_duplicates_in_the_subset_share_nothing() -> None:
    """Two points per class with many copies: both are found first, and their sizes are the numbers of copies."""
    rows = torch.tensor([[2.0, 0.0]] * 6 + [[-2.0, 1.0]] * 3)
    subset = SubsetAugmentation(2 / 9).select(nn.Identity(), [(rows, torch.zeros(9, dtype=torch.long))])
    assert subset.indices.tolist() == [0, 6]
    assert subset.sizes.tolist() == [6, 3]


def test_larger_subsets_approximate_the_sum_of_gradients_better() -> None:
    model, x, y = problem((80, 80, 80))
    g = (model(x).softmax(1) - functional.one_hot(y)).detach()
    errors = []
    for fraction in (0.05, 0.2, 0.5, 1.0):
        subset = SubsetAugmentation(fraction).select(model, [(x, y)])
        errors.append(float((g.sum(0) - (subset.sizes[:, None] * g[subset.indices]).sum(0)).norm()))
    assert errors[-1] < 1e-12
    assert errors == sorted(errors, reverse=True)


def test_batches_order_and_invariances() -> None:
    model, x, y = problem()
    chooser = SubsetAugmentation(0.2)
    whole = chooser.select(model, [(x, y)], head=model[2])
    parts = chooser.select(model, zip(x.split(7), y.split(7), strict=True), head=model[2])
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))
    shuffled = torch.randperm(60)
    other = chooser.select(model, [(x[shuffled], y[shuffled])], head=model[2])
    assert shuffled[other.indices].sort().values.tolist() == whole.indices.tolist()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16)
    assert torch.equal(chooser.select(model, loader, head=model[2]).indices, whole.indices)


def test_the_model_and_the_random_state_are_left_as_they_were() -> None:
    _, x, y = problem()
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    model[1].eval()  # a frozen layer stays frozen
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    chooser = SubsetAugmentation(0.2)
    first = chooser.select(model, [(x, y)], head=model[3])
    assert [module.training for module in model] == [True, False, True, True]
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert not model[3]._forward_pre_hooks
    assert torch.equal(first.indices, chooser.select(model, [(x, y)], head=model[3]).indices), "dropout plays no part"
    with pytest.raises(ZeroDivisionError):
        chooser.select(model, iter(lambda: 1 / 0, 0), head=model[3])
    assert model.training
    assert not model[3]._forward_pre_hooks


def test_half_precision_models() -> None:
    model, x, y = problem()
    model, x = model.bfloat16(), x.bfloat16()
    subset = SubsetAugmentation(0.2).select(model, [(x, y)], head=model[2])
    assert subset.weights.dtype == torch.float32
    assert int(subset.sizes.sum()) == 60


def test_only_the_chosen_are_augmented() -> None:
    model, x, y = problem()
    subset = SubsetAugmentation(0.1).select(model, [(x, y)])
    seen: list[Tensor] = []

    def augmentation(rows: Tensor) -> Tensor:
        seen.append(rows)
        return rows + 1

    copies, labels, weights = subset.copies(x, y, augmentation)
    assert len(seen) == 1
    assert torch.equal(seen[0], x[subset.indices])
    assert torch.equal(copies, x[subset.indices] + 1)
    assert torch.equal(labels, y[subset.indices])
    assert torch.equal(weights, subset.weights)


def test_bad_arguments() -> None:
    model, x, y = problem()
    for settings, message in (
        ({"fraction": 0.0}, r"SubsetAugmentation: fraction must be a finite number in \(0, 1\], got 0.0"),
        ({"fraction": 1.5}, r"fraction must be a finite number in \(0, 1\], got 1.5"),
        ({"budget": "all"}, "budget must be one of 'equal', 'proportional', got 'all'"),
    ):
        with pytest.raises(ValueError, match=message):
            SubsetAugmentation(**settings)
    chooser = SubsetAugmentation()
    with pytest.raises(ValueError, match="batches must hold at least one example, got none"):
        chooser.select(model, [])
    with pytest.raises(
        ValueError, match=r"targets must be class numbers \(n,\) for outputs \(n, c\), got torch.float64"
    ):
        chooser.select(model, [(x, y.double())])
    with pytest.raises(ValueError, match=r"targets must be class numbers from 0 to \d+, got some from 0 to 99"):
        chooser.select(model, [(x, torch.where(torch.arange(len(y)) < 1, 99, 0))])
    with pytest.raises(ValueError, match="head must be a layer that the model runs"):
        chooser.select(model, [(x, y)], head=torch.nn.Linear(3, 2))
    with pytest.raises(TypeError, match=r"head must be a torch.nn.Linear, got Tanh"):
        chooser.select(model, [(x, y)], head=model[1])  # type: ignore[arg-type]
    x[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        chooser.select(model, [(x, y)])
