"""The ledger lists every claim, and what is committed in docs/claims is what the code would write."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from steepest.arena.errors import BadInput
from steepest.catalogue import cards
from steepest.claims import Size, Verdict, ledger, load, registry
from steepest.claims.book import NOT_RUN, NOT_TESTED, rewrite_pages
from steepest.claims.commands import claims_command
from steepest.claims.evidence import read, write
from steepest.claims.pages import claim_page, index_page
from steepest.core.errors import UnknownName

DOCS = Path(__file__).resolve().parents[2] / "docs" / "claims"
AGAIN = "is not what the code writes; run `steepest claims --pages --out docs/claims`"


def test_every_claim_belongs_to_a_method_of_ours() -> None:
    for name, claim in registry().items():
        card = cards()[name]
        assert not card.wraps
        assert claim.method == name
        assert claim.title == card.title
        assert claim.paper in card.papers
        assert set(claim.sizes) == set(Size)


def test_every_stated_claim_is_tested_or_listed_as_open(tmp_path: Path) -> None:
    stated = {name for name, card in cards().items() if card.claim and not card.wraps}
    entries = {entry.method: entry for entry in ledger(tmp_path)}
    assert stated <= set(entries)
    for name, entry in entries.items():
        assert entry.verdict == (NOT_RUN if name in registry() else NOT_TESTED)
    assert entries["adabelief"].verdict == NOT_TESTED
    assert entries["sgdp"].verdict == NOT_TESTED


def test_the_ledger_of_a_room(tmp_path: Path) -> None:
    assert {entry.room for entry in ledger(tmp_path, "optim")} == {"optim"}
    assert ledger(tmp_path, "nowhere") == []


@pytest.mark.parametrize("name", sorted(registry()))
def test_the_committed_evidence_follows_from_its_figures(name: str) -> None:
    claim, evidence = load(name), read(DOCS / f"{name}.json")
    assert evidence.method == name
    assert evidence.size is Size.LAPTOP
    assert evidence.rule == claim.rule, "the rule has changed since: run the claim again"
    judgement = claim.decide(evidence.figures)
    assert (judgement.verdict, judgement.sentence) == (evidence.verdict, evidence.sentence)
    assert len(evidence.seeds) >= evidence.figures["seeds"] >= 3  # the figure is the fewest that any part has
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", evidence.date)
    assert {"steepest", "torch", "python"} <= set(evidence.versions)
    assert evidence.budgets
    assert evidence.seconds > 0


@pytest.mark.parametrize("name", sorted(registry()))
def test_the_committed_page_is_up_to_date(name: str) -> None:
    written = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert written == claim_page(load(name), read(DOCS / f"{name}.json")), f"{name}.md {AGAIN}"
    assert (DOCS / f"{name}.svg").is_file()


def test_a_page_says_what_had_been_seen_when_the_rule_was_fixed() -> None:
    usual = "Fixed before the figures were seen;"
    assert usual in (DOCS / "lion.md").read_text()
    page = (DOCS / "reg.md").read_text()
    assert usual not in page
    assert "a probe of single runs with the tuning seed" in page


def test_the_committed_ledger_is_up_to_date() -> None:
    assert (DOCS / "index.md").read_text(encoding="utf-8") == index_page(ledger(DOCS)), f"index.md {AGAIN}"


def test_pages_are_rewritten_without_running_anything(tmp_path: Path) -> None:
    evidence = read(DOCS / "lion.json")
    write(evidence, tmp_path)
    rewrite_pages(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.md", "lion.json", "lion.md", "lion.svg"]
    assert f"**{evidence.verdict.value}**" in (tmp_path / "index.md").read_text()
    # The same content gives the same bytes, so that a figure changes in version control only when it changes.
    before = (tmp_path / "lion.svg").read_bytes()
    rewrite_pages(tmp_path)
    assert (tmp_path / "lion.svg").read_bytes() == before


def test_evidence_of_another_rule_is_not_presented_as_new(tmp_path: Path) -> None:
    evidence = read(DOCS / "lion.json")
    write(replace(evidence, rule="another rule"), tmp_path)
    with pytest.raises(ValueError, match="run `steepest reproduce lion` again"):
        rewrite_pages(tmp_path)
    other = next(v for v in Verdict if v is not evidence.verdict)
    write(replace(evidence, verdict=other), tmp_path)
    with pytest.raises(ValueError, match="run `steepest reproduce lion` again"):
        rewrite_pages(tmp_path)


def test_the_command_prints_the_ledger(tmp_path: Path) -> None:
    write(read(DOCS / "lion.json"), tmp_path)
    console = Console(record=True, width=200)
    assert claims_command(out=tmp_path, pages=True, console=console) == 0
    text = console.export_text()
    assert re.search(rf"lion .*{read(DOCS / 'lion.json').verdict.value} .*laptop", text)
    assert re.search(rf"adabelief .*{NOT_TESTED}", text)


def test_the_command_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'optim'"):
        claims_command(room="optin", out=tmp_path)
    with pytest.raises(BadInput, match="size must be one of"):
        claims_command(size="tiny", out=tmp_path)
