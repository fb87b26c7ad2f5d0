"""Every size gives all sides equally many settings, the full size's networks fit their data, and the toys are right."""

import pytest
import torch

from steepest.claims import Size, adabound, adamp, ademamix, drop_muon, frugal, lion
from steepest.claims.characters import characters
from steepest.claims.diffgrad import TOYS, descend, values
from steepest.claims.handwriting import handwriting
from steepest.claims.lion_k_runs import lyapunov
from steepest.core.layers import layers_of


@pytest.mark.parametrize("size", list(Size))
def test_sides_get_equally_many_settings(size: Size) -> None:
    groups = [
        lion._sides(lion._SCALES[size]),
        ademamix._sides(ademamix._SCALES[size], 10),
        adabound._sides(adabound._SCALES[size].choices),
        adamp._sides(adamp._SCALES[size]).values(),
        frugal._sides(frugal._SCALES[size]),
        drop_muon._sides(drop_muon._SCALES[size]),
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
        (frugal, frugal._sides(frugal._SCALES[size])),
        (drop_muon, drop_muon._sides(drop_muon._SCALES[size])),
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


def test_the_lyapunov_function_falls_where_the_objective_rises() -> None:
    # The check has teeth: over the same path the objective alone, H without its coupling term, goes up at times.
    runs = [lyapunov("ridge", 0.02, 8.0, seed) for seed in (3, 4, 5)]
    assert max(rise for _, rise, _ in runs) < 1e-12
    assert max(objective for _, _, objective in runs) > 1e-4
