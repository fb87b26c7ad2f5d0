"""The rule of every claim, on planted figures: it can say yes, partly, no, and that it does not know.

The figures lie in ``planted/``, one file per claim.
"""

from typing import Any

import pytest
from planted import NO, UNKNOWN, YES, planted

from steepest.claims import Verdict, load, registry

FILES = planted()
CHANGES = [(name, change, verdict) for name, file in FILES.items() for change, verdict in file.CHANGES]


@pytest.mark.parametrize("name", registry())
def test_every_claim_is_planted(name: str) -> None:
    path = f"tests/claims/planted/{name.replace('-', '_')}.py"
    assert name in FILES, f"the claim {name!r} has no planted figures: write {path}, as planted/__init__.py says"
    assert any(verdict is NO for _, verdict in FILES[name].CHANGES), f"{path}: no figures refute the claim"


def test_every_planted_file_has_its_claim() -> None:
    assert set(FILES) <= set(registry())


@pytest.mark.parametrize("name", FILES)
def test_a_planted_winner_is_reproduced(name: str) -> None:
    judgement = load(name).decide(FILES[name].WINNER)
    assert judgement.verdict is YES
    assert judgement.sentence.endswith(".")


@pytest.mark.parametrize(("name", "change", "verdict"), CHANGES)
def test_planted_figures_get_their_verdict(name: str, change: dict[str, Any], verdict: Verdict) -> None:
    figures = FILES[name].WINNER
    assert set(change) <= set(figures), "a figure that the rule does not read"
    assert load(name).decide({**figures, **change}).verdict is verdict


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_decide_nothing(name: str, seeds: int) -> None:
    judgement = load(name).decide({**FILES[name].WINNER, "seeds": seeds})
    assert judgement.verdict is UNKNOWN
    assert "too few" in judgement.sentence


def test_the_sentence_tells_of_winners_at_the_edge_of_the_grid() -> None:
    claim, figures = load("lion"), FILES["lion"].WINNER
    assert "edge" not in claim.decide({**figures, "winners_at_edge_of_grid": 0}).sentence
    assert claim.decide({**figures, "winners_at_edge_of_grid": 2}).sentence.endswith(
        "2 tuned settings lie at the edge of the learning rates tried."
    )


@pytest.mark.parametrize("name", FILES)
def test_a_rule_names_every_verdict_it_can_give(name: str) -> None:
    for verdict in Verdict:
        assert f"**{verdict.value}**" in load(name).rule
