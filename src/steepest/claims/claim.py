"""A claim: what a paper says, how it is tested here, and the rule for the verdict."""

import datetime
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy
import torch

from steepest.arena.errors import BadInput
from steepest.core.card import Paper
from steepest.core.errors import did_you_mean

from .evidence import SIZES, Evidence, Judgement, Measured, Size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Claim", "Context", "check_size"]


def _silent(text: str) -> None:
    pass


@dataclass(frozen=True)
class Context:
    """What an experiment is asked for.

    Args:
        size: how much to spend.
        seed: the base seed, at least 0; experiments with different ones share no random numbers.
        say: is told, in a few words, what is being done.
        device: where to train.
    """

    size: Size
    seed: int = 0
    say: Callable[[str], None] = field(default=_silent, repr=False, compare=False)
    device: str = "cpu"

    @property
    def tuning_seed(self) -> int:
        """The seed of every tuning run."""
        return 1000 * self.seed

    def seeds(self, count: int) -> list[int]:
        """The seeds of the runs that are scored; none of them was used for tuning."""
        return [1000 * self.seed + 1 + k for k in range(count)]


@dataclass(frozen=True)
class Claim:
    """A paper's claim and its test.

    The verdict is a function of the figures alone, and its rule is fixed before they are seen.

    Args:
        method: the name of the method's card.
        title: the name people write.
        statement: the claim in one sentence.
        paper: where it is made.
        test: how it is tested here, in Markdown.
        rule: when it counts as reproduced, partly, not reproduced or inconclusive, in Markdown.
        sizes: size -> what that size runs and needs, in a sentence.
        measure: runs the experiment.
        judge: the rule: from the figures to the verdict and its sentence.
        draw: draws figures and series.
        seen: where figures had been seen when the rule was fixed: what the page says of it, in place of its sentence
            that none had been.
    """

    method: str
    title: str
    statement: str
    paper: Paper
    test: str
    rule: str
    sizes: Mapping[Size, str]
    measure: Callable[[Context], Measured]
    judge: Callable[[Mapping[str, Any]], Judgement]
    draw: Callable[[Mapping[str, Any], Mapping[str, Any]], "Figure"]
    seen: str = ""

    def decide(self, figures: Mapping[str, Any]) -> Judgement:
        """What the rule says of these figures; the sentence tells of tuning that may not have found the best."""
        judgement = self.judge(figures)
        edges = figures.get("winners_at_edge_of_grid")
        if not edges:
            return judgement
        many = "One tuned setting lies" if edges == 1 else f"{edges} tuned settings lie"
        return replace(judgement, sentence=f"{judgement.sentence} {many} at the edge of the learning rates tried.")

    def run(self, size: str | Size = Size.LAPTOP, seed: int = 0, say: Callable[[str], None] = _silent) -> Evidence:
        """Test the claim.

        Args:
            size: ``"smoke"``, ``"laptop"`` or ``"full"``; the last uses a CUDA device where there is one.
            seed: the base seed, at least 0.
            say: is told what is being done.

        Raises:
            BadInput: the size or the seed is not one.
            steepest.data.DataNotFound: data that this size needs is missing; the message says how to get it.
        """
        chosen = check_size(size)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise BadInput(f"seed must be an integer of at least 0, got {seed!r}")
        device = "cuda" if chosen is Size.FULL and torch.cuda.is_available() else "cpu"
        begun = time.perf_counter()
        measured = self.measure(Context(chosen, seed, say, device))
        judgement = self.decide(measured.figures)
        versions, hardware = _surroundings(device)
        return Evidence(
            method=self.method,
            size=chosen,
            verdict=judgement.verdict,
            sentence=judgement.sentence,
            rule=self.rule,
            figures=dict(measured.figures),
            series=json.loads(json.dumps(measured.series)),  # as it will be read: lists, not tuples
            seeds=list(measured.seeds),
            budgets=dict(measured.budgets),
            versions=versions,
            hardware=hardware,
            threads=torch.get_num_threads(),
            seconds=round(time.perf_counter() - begun, 1),
            date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        )


def check_size(size: str | Size) -> Size:
    """The size of that name.

    Raises:
        BadInput: there is none; the message suggests the nearest.
    """
    try:
        return Size(size)
    except ValueError:
        raise BadInput(
            f"size must be one of {', '.join(SIZES)}, got {size!r}; {did_you_mean(str(size), SIZES)}"
        ) from None


def _surroundings(device: str) -> tuple[dict[str, str], dict[str, str | float | int]]:
    from steepest.arena.measure import environment

    facts = environment(torch.device(device))
    versions = {name: str(facts.pop(name)) for name in ("steepest", "torch", "python")}
    facts.pop("optuna", None)  # plays no part here
    facts["system"] = platform.system()
    return {**versions, "numpy": numpy.__version__}, {**facts, "architecture": platform.machine()}
