"""What a test of a claim leaves behind: figures, a verdict, and what they were measured with; JSON and back."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from steepest.core.files import write_text

__all__ = ["SCHEMA", "SIZES", "Evidence", "Judgement", "Measured", "Size", "Verdict", "read", "write"]

#: The version of the JSON layout. Raise it when a field changes its meaning.
SCHEMA = 1


class Verdict(StrEnum):
    """What came of a claim."""

    REPRODUCED = "reproduced"
    PARTLY = "partly"
    NOT_REPRODUCED = "not reproduced"
    INCONCLUSIVE = "inconclusive"


class Size(StrEnum):
    """How much is spent on testing a claim."""

    SMOKE = "smoke"
    LAPTOP = "laptop"
    FULL = "full"


SIZES = tuple(size.value for size in Size)


@dataclass(frozen=True)
class Measured:
    """What an experiment found.

    Args:
        figures: name -> number (or ``None`` where there is none, never NaN); the rule for the verdict sees only these.
        series: what the drawing needs besides: curves, histograms, scores per seed; nested lists and mappings.
        seeds: the seeds of the runs that were scored.
        budgets: what each side got: trials, steps, examples, ...
    """

    figures: Mapping[str, float | int | None]
    series: Mapping[str, Any]
    seeds: Sequence[int]
    budgets: Mapping[str, float | int | str]


@dataclass(frozen=True)
class Judgement:
    """A verdict, and the sentence that explains it with the figures."""

    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class Evidence:
    """A claim as it was tested once.

    ``rule`` is the text of the rule that gave the verdict, so that evidence from before a change of the rule can be
    told. ``seconds`` is the wall time of the whole experiment.
    """

    method: str
    size: Size
    verdict: Verdict
    sentence: str
    rule: str
    figures: Mapping[str, float | int | None]
    series: Mapping[str, Any]
    seeds: Sequence[int]
    budgets: Mapping[str, float | int | str]
    versions: Mapping[str, str]
    hardware: Mapping[str, str | float | int]
    threads: int
    seconds: float
    date: str
    schema: int = SCHEMA

    def to_json(self) -> str:
        """The evidence as text; numbers that JSON cannot hold are an error."""
        try:
            text = json.dumps(asdict(self), indent=1, allow_nan=False)
        except ValueError as error:
            raise ValueError(f"the evidence for {self.method!r} holds a number that is not finite: {error}") from error
        return _compact(text) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The evidence in a text.

        Raises:
            ValueError: the text is no evidence, or of another schema version; the message says what is wrong.
        """
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not evidence: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"not evidence: an object is expected, got {type(content).__name__}")
        if content.get("schema") != SCHEMA:
            raise ValueError(f"evidence of schema {content.get('schema')!r}; this version reads schema {SCHEMA}")
        expected = {field.name for field in fields(cls)}
        if content.keys() != expected:
            parts = [
                f"{word} {', '.join(sorted(names))}"
                for word, names in (("lacks", expected - content.keys()), ("has unknown", content.keys() - expected))
                if names
            ]
            raise ValueError(f"evidence {' and '.join(parts)}")
        for name, kind in (("size", Size), ("verdict", Verdict)):
            try:
                content[name] = kind(content[name])
            except ValueError:
                allowed = ", ".join(kind)
                raise ValueError(f"evidence: {name} must be one of {allowed}, got {content[name]!r}") from None
        for name, value in content["figures"].items():
            good = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
            if not good or (value is not None and not math.isfinite(value)):
                raise ValueError(f"evidence: figure {name!r} must be a finite number or null, got {value!r}")
        return cls(**content)


def _compact(text: str) -> str:
    """Lists of numbers on one line each, so that a file can be read and compared."""
    lines: list[str] = []
    numbers: list[str] | None = None
    for line in text.splitlines():
        word = line.strip()
        if numbers is None:
            lines.append(line)
            if word.endswith("["):
                numbers = []
        elif word.rstrip(",") == "]":
            lines[-1] += " ".join(numbers) + word
            numbers = None
        elif word[0] in "-0123456789n":
            numbers.append(word)
        else:  # a list of something else: as it was
            lines.extend([" " * (len(line) - len(line.lstrip())) + n for n in numbers])
            lines.append(line)
            numbers = [] if word.endswith("[") else None
    return "\n".join(lines)


def write(evidence: Evidence, folder: Path) -> Path:
    """Write ``<method>.json`` into an existing folder; returns its path."""
    path = folder / f"{evidence.method}.json"
    write_text(path, evidence.to_json())
    return path


def read(path: Path) -> Evidence:
    """The evidence in a file.

    Raises:
        ValueError: the file holds no evidence of this schema; the message names the file.
    """
    try:
        return Evidence.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
