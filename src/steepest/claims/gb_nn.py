"""Boosted networks: do they generalize as well as networks of equal size that are trained as a whole?"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from steepest import data
from steepest.catalogue import card

from .claim import Claim, Context
from .evidence import Judgement, Measured, Size, Verdict
from .experiment import ENOUGH, grid, interval, mean, parts, too_few
from .figure import COLOURS, MARKERS, band, canvas

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CLAIM", "ranks"]

#: How much higher the mean rank may be than that of the best rival.
RANK = 0.5
#: The part of the score that half of the neurons must keep.
KEPT = 0.99
SIDES = {"gb_nn": "GB-NN", "adam": "Adam", "lbfgs": "L-BFGS", "sgd": "SGD"}


@dataclass(frozen=True)
class _Scale:
    seeds: int
    sets: tuple[str, ...]
    rows: int  # of the training part, at most
    units: int
    epochs: int  # of the rivals, and iterations of L-BFGS
    settings: int


_TABLES = ("breast_cancer", "wine", "digits", "diabetes", "a8a")
_SCALES = {
    Size.SMOKE: _Scale(1, ("wine", "diabetes"), 60, 4, 5, 1),
    Size.LAPTOP: _Scale(5, _TABLES, 600, 48, 200, 6),
    Size.FULL: _Scale(10, (*_TABLES, "a9a.t", "w8a", "mnist10k"), 10_000, 200, 200, 6),
}


def _grid(side: str, scale: _Scale) -> Sequence[Mapping[str, Any]]:
    if side == "gb_nn":
        found = grid(learning_rate=(1.0, 0.3, 0.1), hidden_units=(1, 3))
    elif side == "lbfgs":
        found = grid(alpha=(1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0))
    elif side == "adam":
        found = grid(learning_rate_init=(3e-2, 1e-2, 3e-3), alpha=(1e-4, 1.0))
    else:
        found = grid(learning_rate_init=(1.0, 0.3, 0.1), alpha=(1e-4, 1.0))
    return found[: scale.settings]


def _fit(side: str, scale: _Scale, classes: bool, settings: Mapping[str, Any], seed: int, x: Any, y: Any) -> Any:
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    from steepest.train.local import GradientBoostedNetworkClassifier, GradientBoostedNetworkRegressor

    if side == "gb_nn":
        make = GradientBoostedNetworkClassifier if classes else GradientBoostedNetworkRegressor
        stages = max(1, scale.units // settings["hidden_units"])
        return make(n_estimators=stages, max_iter=scale.epochs, random_state=seed, **settings).fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the iterations are used up
        peer = (MLPClassifier if classes else MLPRegressor)(
            hidden_layer_sizes=(scale.units,),
            activation="logistic",
            solver=side,
            max_iter=scale.epochs,
            batch_size=64 if side != "lbfgs" else "auto",
            random_state=seed,
            **settings,
        )
        try:
            return peer.fit(x, y)
        except ValueError:  # diverged
            return None


def _score(model: Any, x: Any, y: Any) -> float:
    """Accuracy, or the explained part of the variance; 0 for a model that diverged."""
    if model is None:
        return 0.0
    found = model.predict(x)
    return max(0.0, float(model.score(x, y))) if np.isfinite(np.asarray(found, dtype=float)).all() else 0.0


def _tables(name: str, rows: int, seed: int) -> tuple[bool, list[tuple[Any, Any]]]:
    """Whether there are classes, and the three parts; targets of a regression are standardized."""
    found: Any = data.load(name, seed=seed % 2**32)
    splits = []
    for number, split in enumerate((found.train, found.validation, found.test)):
        count = rows if number == 0 else 2 * rows
        inputs = split.inputs[:count] if not split.inputs.is_sparse_csr else split.inputs.to_dense()[:count]
        splits.append((inputs.flatten(1).double().numpy(), split.targets[:count].numpy()))
    if found.train.targets.is_floating_point():
        y = splits[0][1]
        return False, [(x, (t - y.mean()) / y.std()) for x, t in splits]
    return True, splits


def ranks(scores: Mapping[str, float]) -> dict[str, float]:
    """The rank of each side, 1 for the highest score; equal scores share the mean of their ranks."""
    values = list(scores.values())
    return {
        name: 1 + sum(other > value for other in values) + (sum(other == value for other in values) - 1) / 2
        for name, value in scores.items()
    }


def measure(context: Context) -> Measured:
    """All sides on all tables, every seed with a split and a tuning of its own."""
    scale = _SCALES[context.size]
    seeds = context.seeds(scale.seeds)
    figures: dict[str, float | int | None] = {"seeds": len(seeds), "sets": len(scale.sets)}
    series: dict[str, Any] = {"scores": {}, "curves": {}, "ranks": {side: [] for side in SIDES}, "settings": {}}
    table: list[dict[str, list[float]]] = []  # per seed, ranks on the sets
    for _ in seeds:
        table.append({side: [] for side in SIDES})
    for name in scale.sets:
        series["scores"][name] = {side: [] for side in SIDES}
        series["curves"][name], series["settings"][name] = [], {side: [] for side in SIDES}
        for number, seed in enumerate(seeds):
            classes, (train, validation, test) = _tables(name, scale.rows, seed)
            scores = {}
            for side, said in SIDES.items():
                context.say(f"{name}, split {number + 1} of {len(seeds)}: {said}")
                make: Callable[[Mapping[str, Any]], Any] = partial(
                    lambda s, side, classes, seed, train: _fit(side, scale, classes, s, seed, *train),
                    side=side,
                    classes=classes,
                    seed=seed,
                    train=train,
                )
                options = _grid(side, scale)
                models = [make(settings) for settings in options]
                best = int(np.argmax([_score(model, *validation) for model in models]))
                scores[side] = _score(models[best], *test)
                series["settings"][name][side].append(dict(options[best]))
                if side == "gb_nn":
                    staged = [float(v) for v in _staged(models[best], classes, *test)]
                    series["curves"][name].append(_resampled(staged))
            for side, rank in ranks(scores).items():
                table[number][side].append(rank)
                series["scores"][name][side].append(100 * scores[side])
        for side in SIDES:
            figures[f"score_{name}_{side}"] = mean(series["scores"][name][side])
        curves = np.array(series["curves"][name])
        figures[f"half_over_all_{name}"] = float((curves[:, curves.shape[1] // 2] / curves[:, -1].clip(1e-9)).mean())
    for side in SIDES:
        series["ranks"][side] = [float(np.mean(row[side])) for row in table]
        figures[f"rank_{side}"] = mean(series["ranks"][side])
    rival = min((side for side in SIDES if side != "gb_nn"), key=lambda side: float(np.mean(series["ranks"][side])))
    series["rival"] = rival
    gaps = [a - b for a, b in zip(series["ranks"]["gb_nn"], series["ranks"][rival], strict=True)]
    figures |= interval(gaps).figures("rank_over_best_rival")
    figures["sets_kept"] = sum(figures[f"half_over_all_{name}"] >= KEPT for name in scale.sets)  # type: ignore[operator]
    budgets = {
        "settings tried per side": len(_grid("gb_nn", scale)),
        "hidden units": scale.units,
        "training rows, at most": scale.rows,
        "epochs or iterations, at most": scale.epochs,
    }
    return Measured(figures, series, seeds, budgets)


def _staged(model: Any, classes: bool, x: Any, y: Any) -> list[float]:
    from sklearn.metrics import accuracy_score, r2_score

    score = accuracy_score if classes else r2_score
    return [max(0.0, float(score(y, found))) for found in model.staged_predict(x)]


def _resampled(staged: Sequence[float]) -> list[float]:
    """The score with 0, 1/16, ..., 16/16 of the stages (the first of them where that is none)."""
    last = len(staged)
    return [100 * staged[max(1, round(k * last / 16)) - 1] for k in range(17)]


RULE = f"""\
Sides are ranked by their test scores (accuracy, or the explained variance) on every set and split; ranks are averaged
over the sets. Intervals are 95 %, over splits.

1. The mean rank of GB-NN is at most {RANK:g} above that of the best of Adam, L-BFGS and SGD (upper end of the interval
   of the difference).
2. On most sets the first half of its neurons keeps {KEPT:.0%} of the score of all, or more (mean over splits).

- **reproduced**: both. **partly**: one of them.
- **not reproduced**: neither.
- **inconclusive**: fewer than {ENOUGH} seeds."""


def judge(figures: Mapping[str, Any]) -> Judgement:
    """The rule."""
    if figures["seeds"] < ENOUGH:
        return too_few(figures["seeds"])
    holds = [figures["rank_over_best_rival_high"] <= RANK, 2 * figures["sets_kept"] > figures["sets"]]
    listed = ", ".join(f"{name} {figures[f'rank_{side}']:.2f}" for side, name in SIDES.items())
    said = parts(
        holds,
        f"The mean ranks are {listed}; "
        f"GB-NN's less the best rival's is {figures['rank_over_best_rival']:+.2f} "
        f"({figures['rank_over_best_rival_low']:+.2f} to {figures['rank_over_best_rival_high']:+.2f}). Half of the "
        f"neurons keep {KEPT:.0%} of the score on {figures['sets_kept']} of {figures['sets']} sets.",
    )
    if all(holds):
        return Judgement(Verdict.REPRODUCED, said)
    return Judgement(Verdict.PARTLY if any(holds) else Verdict.NOT_REPRODUCED, said)


def draw(figures: Mapping[str, Any], series: Mapping[str, Any]) -> "Figure":
    """Scores on every set, and GB-NN's over the part of its neurons."""
    figure, (scored, kept) = canvas(height=3.8)
    names = list(series["scores"])
    for index, (side, said) in enumerate(SIDES.items()):
        means = [np.mean(series["scores"][name][side]) for name in names]
        place = np.arange(len(names)) + 0.17 * (index - 1.5)
        for k, name in enumerate(names):
            values = series["scores"][name][side]
            scored.plot([place[k]] * len(values), values, ".", color=COLOURS[index], alpha=0.45, markersize=4)
        scored.plot(place, means, MARKERS[index], color=COLOURS[index], label=said)
    scored.set_xticks(range(len(names)), [name.replace("_", "\n") for name in names], fontsize=8.5)
    scored.set_ylabel("test accuracy; diabetes: explained variance (%)", fontsize=8.5)
    scored.set_title("Fresh splits (symbols: means)")
    scored.legend(ncols=2)
    for index, name in enumerate(names):
        curves = series["curves"][name]
        part = [100 * k / (len(curves[0]) - 1) for k in range(len(curves[0]))]
        band(kept, part[1:], [curve[1:] for curve in curves], index, name.replace("_", " "))
    kept.axvline(50, color="k", linestyle=":", linewidth=1)
    kept.set_xlabel("neurons in use (%), first stages first")
    kept.set_ylabel("test score of GB-NN (%)")
    kept.set_title("Neurons switched off (bands: all splits)")
    kept.legend(
        fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=5, columnspacing=1.0, handlelength=1.4
    )
    return figure


CLAIM = Claim(
    method="gb-nn",
    title=card("gb-nn").title,
    statement=card("gb-nn").claim,
    paper=card("gb-nn").papers[0],
    test="""\
Networks with one hidden layer of logistic units, equally many on all sides, on small tables: four of classification and
one of regression. GB-NN trains them in stages; the others are scikit-learn's networks, trained as a whole by Adam,
L-BFGS or SGD. Every split is tuned by itself on its validation part: GB-NN over learning rates and neurons per
stage, Adam and SGD over learning rates and weight decay, L-BFGS over weight decay, with equally many settings. The fit
that scores best there is tested. Then the last stages of GB-NN are switched off.""",
    rule=RULE,
    sizes={
        Size.SMOKE: "two tables, four hidden units, one setting, one split; seconds; always inconclusive",
        Size.LAPTOP: "5 tables of at most 600 training rows, 48 hidden units, 6 settings per side, 5 splits; minutes",
        Size.FULL: "8 tables of at most 10,000 training rows, 200 hidden units, 6 settings per side, 10 splits; hours",
    },
    measure=measure,
    judge=judge,
    draw=draw,
)
