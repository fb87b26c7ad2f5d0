"""Evidence is what can be read again later: it survives JSON, and damaged files are told."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from steepest.claims.evidence import SCHEMA, Evidence, Size, Verdict, read, write

EVIDENCE = Evidence(
    method="lion",
    size=Size.LAPTOP,
    verdict=Verdict.PARTLY,
    sentence="Lion matched.",
    rule="- **partly**: if so.",
    figures={"gap": -0.25, "seeds": 4, "missing": None},
    series={"curves": [[1.0, -2.5, None], [3, 4, 5e-7]], "names": ["a", "b"], "empty": [], "nested": {"x": [{"y": 1}]}},
    seeds=[1, 2, 3, 4],
    budgets={"steps per run": 100, "batch sizes": "8, 32"},
    versions={"torch": "2.13.0"},
    hardware={"cores": 2, "processor": "some"},
    threads=2,
    seconds=1.5,
    date="2026-01-01",
)


def test_it_survives_json(tmp_path: Path) -> None:
    path = write(EVIDENCE, tmp_path)
    assert path.name == "lion.json"
    again = read(path)
    assert again == EVIDENCE
    assert isinstance(again.verdict, Verdict)
    assert isinstance(again.size, Size)


def test_the_text_is_plain_json_with_short_lists_on_one_line() -> None:
    text = EVIDENCE.to_json()
    assert json.loads(text)["schema"] == SCHEMA
    assert json.loads(text)["series"] == EVIDENCE.series
    assert '"seeds": [1, 2, 3, 4],' in text


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_json_cannot_hold_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match=r"'lion'.*not finite"):
        replace(EVIDENCE, figures={"gap": bad}).to_json()


def changed(**changes: object) -> str:
    content = json.loads(EVIDENCE.to_json())
    for name, value in changes.items():
        if value is ...:
            del content[name]
        else:
            content[name] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not evidence"),
        ("[1]", "an object is expected, got list"),
        (changed(schema=99), "schema 99; this version reads schema 1"),
        (changed(verdict=...), "lacks verdict"),
        (changed(surprise=1), "has unknown surprise"),
        (
            changed(verdict="maybe"),
            "verdict must be one of reproduced, partly, not reproduced, inconclusive, got 'maybe'",
        ),
        (changed(size="huge"), "size must be one of smoke, laptop, full, got 'huge'"),
        (changed(figures={"gap": "big"}), "'gap' must be a finite number or null, got 'big'"),
        (changed(figures={"gap": True}), "'gap' must be a finite number or null"),
    ],
)
def test_what_is_no_evidence_is_told(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "lion.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
