"""Which settings the slots of a method's plan try.

Every method has slots ``0 .. trials-1`` over its card's search space. With the quasi-random sampler the settings of a
slot are a function of base seed, method and slot alone, so that a plan can be resumed, grown and spread over machines.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from steepest.core.card import Choice, Distribution, Float, Integers, MethodCard

if TYPE_CHECKING:
    import optuna

__all__ = ["SAMPLERS", "SamplerKind", "decode", "distributions", "encode", "quasi_random", "suggest"]

SamplerKind = Literal["qmc", "tpe"]
SAMPLERS: tuple[SamplerKind, ...] = ("qmc", "tpe")
#: Slots of the TPE sampler that are quasi-random, before it has anything to learn from.
STARTUP = 6

_NATIVE = (type(None), bool, int, float, str)


def quasi_random(card: MethodCard, seed: int, slot: int) -> dict[str, Any]:
    """The settings of a slot: point ``slot`` of the scrambled Sobol sequence of this method and base seed.

    A method that sets its own step size is first tried as it comes: with its defaults.
    """
    from torch.quasirandom import SobolEngine

    if not card.search:
        return {}
    if card.tuning_free and slot == 0:
        return card.defaults()
    scramble = zlib.crc32(f"{seed}/{card.name}".encode())
    engine = SobolEngine(len(card.search), scramble=True, seed=scramble)
    if slot:
        engine.fast_forward(slot)
    import torch

    point = engine.draw(1, dtype=torch.float64)[0].tolist()
    return {name: _inside(d, d.at(u)) for (name, d), u in zip(card.search.items(), point, strict=True)}


def _inside(distribution: Distribution, value: Any) -> Any:
    # Rounding in exp(log(...)) may leave the range by one unit in the last place, which Optuna rejects.
    if isinstance(distribution, Float):
        return min(distribution.high, max(distribution.low, value))
    return value


def distributions(card: MethodCard) -> dict[str, "optuna.distributions.BaseDistribution"]:
    """The search space in Optuna's terms; values that Optuna cannot store natively stand as their Python literal."""
    import optuna

    found: dict[str, optuna.distributions.BaseDistribution] = {}
    for name, d in card.search.items():
        if isinstance(d, Float):
            found[name] = optuna.distributions.FloatDistribution(d.low, d.high, log=d.log)
        elif isinstance(d, Integers):
            found[name] = optuna.distributions.IntDistribution(d.low, d.high)
        else:
            found[name] = optuna.distributions.CategoricalDistribution([_written(v) for v in d.values])
    return found


def _written(value: Any) -> Any:
    return value if isinstance(value, _NATIVE) else repr(value)


def encode(card: MethodCard, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as Optuna parameters."""
    return {name: _written(value) for name, value in settings.items()}


def decode(card: MethodCard, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Optuna parameters as settings, in the order of the card; others (the seed of a final run) are left out."""
    settings: dict[str, Any] = {}
    for name, d in card.search.items():
        if name not in parameters:
            continue
        value = parameters[name]
        if isinstance(d, Choice):
            value = next(v for v in d.values if _written(v) == value and type(_written(v)) is type(value))
        settings[name] = value
    return settings


def suggest(
    card: MethodCard,
    seed: int,
    slot: int,
    sampler: SamplerKind,
    higher_is_better: bool,
    history: Sequence[tuple[Mapping[str, Any], float | None]],
) -> dict[str, Any]:
    """The settings to try in a slot.

    Args:
        history: settings and score of the trials so far; ``None`` for those without one (running, diverged, ...),
            which TPE then avoids.
    """
    scored = [h for h in history if h[1] is not None]
    if sampler == "qmc" or not card.search or slot < STARTUP or len(scored) < 2:
        return quasi_random(card, seed, slot)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = distributions(card)
    tpe = optuna.samplers.TPESampler(seed=zlib.crc32(f"{seed}/{card.name}/{slot}".encode()), n_startup_trials=2)
    study = optuna.create_study(direction="maximize" if higher_is_better else "minimize", sampler=tpe)
    values = [v for _, v in scored if v is not None]
    worst = min(values) if higher_is_better else max(values)
    for settings, value in history:
        study.add_trial(
            optuna.trial.create_trial(
                params=encode(card, settings), distributions=space, value=worst if value is None else value
            )
        )
    return decode(card, study.ask(fixed_distributions=space).params)
