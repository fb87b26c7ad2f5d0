"""Learning rates over widths, in the maximal update parametrization and in the standard one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from steepest import data
from steepest.catalogue import card
from steepest.train.parametrize import Coordinates, Transfer, coordinate_check, transfer

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, difference, interval, parts, too_few
from .figure import COLOURS, MARKERS, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM"]

#: Slopes of the logarithm of changes over that of the width: at most in muP, at least (of one layer) in the standard.
FLAT, STEEP = 0.1, 0.5
#: Steps of the grid by which best learning rates may differ in muP, and by which they must fall in the standard one.
NEAR, FAR = 1, 2
#: Learning rate of the coordinate check: Adam's default.
RATE = 1e-3
_SIDES = {"mup": "muP", "standard": "standard"}
#: The linear layers of the networks, as torch names them.
_LAYERS = {"0": "first", "2": "second", "4": "third", "6": "output"}


@dataclass(frozen=True)
class _Scale:
    images: str
    seeds: int
    checked: tuple[int, ...]  # widths of the coordinate check
    widths: tuple[int, ...]  # of the sweep
    rates: tuple[int, ...]  # powers of two
    steps: int
    batch: int


_SCALES = {
    Size.SMOKE: _Scale("digits", 1, (8, 16), (8, 16), (-7, -6), 3, 16),
    Size.LAPTOP: _Scale(
        "mnist10k", 5, (64, 128, 256, 512, 1024, 2048), (32, 64, 128, 256, 512), tuple(range(-12, -3)), 100, 64
    ),
    Size.FULL: _Scale(
        "mnist",
        10,
        (64, 128, 256, 512, 1024, 2048, 4096, 8192),
        (64, 128, 256, 512, 1024, 2048, 4096, 8192),
        tuple(range(-15, -2)),
        2000,
        64,
    ),
}


def _images(name: str) -> Any:
    return {"digits": data.digits, "mnist10k": data.mnist10k, "mnist": data.mnist}[name]()


def measure(context: Context) -> Measured:
    """The coordinate check, then the sweep over widths and learning rates."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    splits = _images(scale.images)
    split = {
        name: (part.inputs.flatten(1).to(context.device), part.targets.to(context.device))
        for name, part in (("train", splits.train), ("validation", splits.validation), ("test", splits.test))
    }
    train, inputs = split["train"], split["train"][0].shape[1]

    def build(width: int) -> nn.Module:
        return nn.Sequential(
            *(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()),
            *(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)),
        ).to(context.device)

    figures: dict[str, float | int | None] = {"seeds": len(seeds)}
    series: dict[str, Any] = {"checked": list(scale.checked), "widths": list(scale.widths), "changes": {}, "losses": {}}
    series["rates"] = [2.0**k for k in scale.rates]
    for side in _SIDES:
        context.say(f"coordinate check: {_SIDES[side]}")
        found = coordinate_check(
            build, scale.checked, torch.optim.Adam, train[0][: scale.batch], train[1][: scale.batch],
            lr=RATE, seeds=seeds, standard=side == "standard",
        )  # fmt: skip
        slopes = {layer: _slopes(found, name, seeds) for name, layer in _LAYERS.items()}
        for layer, each in slopes.items():
            figures |= interval(each).figures(f"{side}_slope_{layer}")
        series["changes"][side] = {layer: list(found.changes(name).values()) for name, layer in _LAYERS.items()}
    shifts: dict[str, list[float]] = {}
    edges = 0
    for side in _SIDES:
        tests: list[float] = []  # in the order of the sweep

        def fit(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int, tests: list[float] = tests) -> float:
            draw = torch.Generator().manual_seed(seed)
            for _ in range(scale.steps):
                rows = torch.randint(len(train[1]), (scale.batch,), generator=draw).to(context.device)
                optimizer.zero_grad()
                functional.cross_entropy(model(train[0][rows]), train[1][rows]).backward()
                optimizer.step()
            with torch.no_grad():
                losses = [float(functional.cross_entropy(model(x), y)) for x, y in (split["validation"], split["test"])]
            tests.append(losses[1])
            return losses[0]

        swept = transfer(
            build, scale.widths, series["rates"], torch.optim.Adam, fit, seeds=seeds, standard=side == "standard",
            say=lambda text, side=side: context.say(f"{_SIDES[side]}: {text}"),
        )  # fmt: skip
        places = swept.places()
        edges += sum(place in (0, len(scale.rates) - 1) for place in places)
        series["losses"][side] = [
            [[v if np.isfinite(v) else None for v in runs] for runs in row] for row in swept.losses
        ]
        each = [_places(swept, k) for k in range(len(seeds))]
        shifts[side] = [float(one[-1] - one[0]) for one in each]
        figures[f"{side}_drift"] = swept.drift
        figures[f"{side}_shift"] = places[-1] - places[0]
        figures |= interval(shifts[side]).figures(f"{side}_shift_per_seed")
        scored = np.reshape(tests, (len(scale.widths), len(scale.rates), len(seeds)))[:, places[0]]
        series.setdefault("at_narrow_rate", {})[side] = [[v if np.isfinite(v) else None for v in row] for row in scored]
        gap = difference(*([v if np.isfinite(v) else None for v in scored[place]] for place in (-1, 0)))
        name = f"{side}_loss_wide_less_narrow"
        figures |= gap.figures(name) if gap else {name: None, f"{name}_low": None, f"{name}_high": None}
    apart = difference(shifts["standard"], shifts["mup"])
    assert apart is not None
    figures |= apart.figures("shift_standard_less_mup")
    figures["winners_at_edge_of_grid"] = edges
    budgets = {
        "learning rates per width and side": len(scale.rates),
        "steps per run": scale.steps,
        "images per batch": scale.batch,
        "steps of the coordinate check": 4,
    }
    return Measured(figures, series, seeds, budgets)


def _slopes(found: Coordinates, layer: str, seeds: list[int]) -> list[float]:
    """The slope of one layer, seed by seed."""
    return [Coordinates([row for row in found.rows if row[1] == seed]).slopes()[layer] for seed in seeds]


def _places(swept: Transfer, seed: int) -> list[int]:
    """The place of the best learning rate at every width, of one seed alone."""
    return Transfer(swept.widths, swept.lrs, [[[runs[seed]] for runs in row] for row in swept.losses]).places()


RULE = f"""\
A slope is that of the logarithm of a layer's mean absolute change after 4 steps over the logarithm of the width, as a
mean over seeds. The best learning rate of a width is that with the least mean validation loss; learning rates are in
steps of 2.

1. In muP the slopes of all four layers lie between -{FLAT:g} and {FLAT:g}.
2. In the standard parametrization that of one layer at least is {STEEP:g} or more.
3. In muP the best learning rates of all widths lie within {NEAR} step of the grid.
4. In the standard parametrization the best learning rate falls by {FAR} steps or more from the narrowest to the widest,
   and seed by seed by more than in muP (the interval of the paired difference lies below 0).
5. In muP, with the rate that is best at the narrowest width, the widest network has the lower test loss (the interval
   of the paired difference lies below 0).

- **reproduced**: all five. **partly**: 3, or both 1 and 2.
- **not reproduced**: neither.
- **inconclusive**: fewer than {ENOUGH} seeds, or a run in muP of the narrowest width's best rate that diverges."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    if figures["mup_loss_wide_less_narrow"] is None:
        return Judgement(Verdict.INCONCLUSIVE, "A run has no loss.")
    slopes = {side: [figures[f"{side}_slope_{layer}"] for layer in _LAYERS.values()] for side in _SIDES}
    holds = [
        all(abs(slope) <= FLAT for slope in slopes["mup"]),
        any(slope >= STEEP for slope in slopes["standard"]),
        figures["mup_drift"] <= NEAR,
        figures["standard_shift"] <= -FAR and figures["shift_standard_less_mup_high"] < 0,
        figures["mup_loss_wide_less_narrow_high"] < 0,
    ]
    told = "; ".join(f"{', '.join(f'{s:+.2f}' for s in slopes[side])} ({name})" for side, name in _SIDES.items())
    factors = [2 ** figures[f"{side}_drift"] for side in _SIDES]
    moves = [f"{figures[f'{side}_shift']:+d}" for side in _SIDES]
    said = (
        f"From the first layer to the output the slopes are {told}. Over the widths the best learning rates differ by "
        f"a factor of {factors[0]} in muP and of {factors[1]} in the standard parametrization; from the narrowest to "
        f"the widest they move by {moves[0]} and {moves[1]} steps of the grid. At the narrowest width's best rate the "
        f"widest network's test loss differs by {_gap(figures, 'mup')} in muP and by {_gap(figures, 'standard')} in "
        f"the standard parametrization."
    )
    said = parts(holds, said)
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    if holds[2] or (holds[0] and holds[1]):
        return Judgement(Verdict.PARTLY, said)
    return Judgement(Verdict.NOT_REPRODUCED, said)


def _gap(figures: Mapping[str, Any], side: str) -> str:
    mean, low, high = (figures.get(f"{side}_loss_wide_less_narrow{end}") for end in ("", "_low", "_high"))
    return "an unknown amount" if mean is None else f"{mean:+.3f} nats ({low:+.3f} to {high:+.3f})"


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Changes over widths and losses over learning rates, in both parametrizations."""
    from matplotlib import colormaps

    figure, axes = canvas(rows=2)
    checks, sweeps = axes[:2], axes[2:]
    for panel, (side, name) in zip(checks, _SIDES.items(), strict=True):
        for index, (layer, values) in enumerate(series["changes"][side].items()):
            colour, marker = COLOURS[index], MARKERS[index]
            panel.plot(series["checked"], values, color=colour, marker=marker, label=layer)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xlabel("width")
        panel.set_ylabel("mean |change| after 4 steps")
        panel.set_title(f"Coordinate check, {name}")
    _together(checks)
    checks[0].legend(title="layer", ncols=2, fontsize=8)
    shades = colormaps["viridis"].resampled(len(series["widths"]) + 1)
    for panel, (side, name) in zip(sweeps, _SIDES.items(), strict=True):
        for index, (width, rows) in enumerate(zip(series["widths"], series["losses"][side], strict=True)):
            means = [np.nan if None in runs else float(np.mean(runs)) for runs in rows]
            best = int(np.nanargmin(means))
            panel.plot(series["rates"], means, color=shades(index), label=str(width))
            panel.plot(series["rates"][best], means[best], "o", color=shades(index))
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xlabel("learning rate at the narrowest width")
        panel.set_ylabel("validation loss (nats)")
        panel.set_title(f"Sweep, {name} (dots: the best)")
    _together(sweeps)
    sweeps[0].legend(title="width", ncols=2, fontsize=8)
    return figure


def _together(panels: Any) -> None:
    """One range for both panels, so that they can be compared."""
    lows, highs = zip(*(panel.get_ylim() for panel in panels), strict=True)
    for panel in panels:
        panel.set_ylim(min(lows), max(highs))


CLAIM = Claim(
    method="mup",
    title="muP",
    statement=card("mup").claim,
    paper=card("mup").papers[0],
    test=f"""\
Networks with three hidden layers of rectified linear units learn handwritten digits with Adam, in muP with the
narrowest network as base and in the standard parametrization (torch's initial values, one learning rate); at the
narrowest width the two are the same. First the coordinate check: four steps on one batch with learning rate {RATE:g} at
widths from 64 on, and the change of the outputs of every layer on that batch. Then a sweep: every width is trained with
every learning rate for as many steps at a constant rate, and the rate with the least validation loss is looked for.
Seeds fix initial values and batches for both sides and all rates alike.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "two widths, two learning rates, one seed; seconds; always inconclusive",
        Size.LAPTOP: "10,000 images of MNIST; widths of 64 to 2048 in the check and of 32 to 512 in the sweep, 9 "
        "learning rates, 100 steps, 5 seeds; minutes",
        Size.FULL: "MNIST (found as `steepest.data.mnist` says); widths of 64 to 8192, 13 learning rates, 2000 steps, "
        "10 seeds; a day on one GPU",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
