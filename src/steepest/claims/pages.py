"""The ledger's pages, in Markdown, made from claims and evidence alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .claim import Claim
from .evidence import Evidence, Size

if TYPE_CHECKING:
    from .book import Entry

__all__ = ["claim_page", "figure_rows", "index_page", "number"]


def claim_page(claim: Claim, evidence: Evidence) -> str:
    """The page of one claim: what is said, how it was tested, what came out."""
    return "\n".join(_claim_lines(claim, evidence)) + "\n"


def _claim_lines(claim: Claim, evidence: Evidence) -> Iterator[str]:
    yield f"# {claim.title}"
    yield ""
    source = f"[{claim.paper}]({claim.paper.url})" if claim.paper.url else str(claim.paper)
    yield f"**The claim.** {claim.statement} ({source})"
    yield ""
    yield f"**The verdict: {evidence.verdict.value}.** {evidence.sentence}"
    yield ""
    yield f"![{claim.title}: what the experiment found]({claim.method}.svg)"
    yield ""
    yield "## How it was tested"
    yield ""
    yield claim.test
    yield ""
    yield "## The rule for the verdict"
    yield ""
    yield claim.seen or "Fixed before the figures were seen; a change since then is told above."
    yield ""
    # Without a paragraph between them, Markdown takes the bullets for a continuation of a numbered list.
    yield evidence.rule.replace("\n\n- **", "\n\nThe verdict:\n\n- **", 1)
    yield ""
    yield "## Run it"
    yield ""
    yield "```bash"
    yield f"steepest reproduce {claim.method}"
    yield "```"
    yield ""
    yield from _sizes(claim.sizes)
    yield ""
    yield "## The figures"
    yield ""
    yield "In brackets: 95 % bootstrap intervals over the seeds; differences are paired by seed."
    yield ""
    yield from _table(("figure", "value"), ((f"`{n}`", value) for n, value in figure_rows(evidence.figures)))
    if settings := evidence.series.get("settings"):
        yield ""
        yield "Settings that won the tuning:"
        yield ""
        rows = ((side, ", ".join(f"`{k}={v}`" for k, v in chosen.items())) for side, chosen in settings.items())
        yield from _table(("side", "settings"), rows)
    yield ""
    yield "## Measured with"
    yield ""
    seeds = (
        f"{evidence.seeds[0]} to {evidence.seeds[-1]}"
        if len(evidence.seeds) > 1
        else ", ".join(map(str, evidence.seeds))
    )
    facts: dict[str, Any] = {
        "size": evidence.size.value,
        "date": evidence.date,
        "seeds": seeds,
        **evidence.budgets,
        **evidence.versions,
        **evidence.hardware,
        "threads": evidence.threads,
        "seconds in all": evidence.seconds,
    }
    yield from _table(("", ""), ((k.replace("_", " "), str(v)) for k, v in facts.items()))


def figure_rows(figures: Mapping[str, float | int | None]) -> Iterator[tuple[str, str]]:
    """Names and values of the figures; an interval stands behind its mean."""
    for name, value in figures.items():
        if name.removesuffix("_low").removesuffix("_high") != name:
            continue
        low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
        between = "" if low is None or high is None else f" ({number(low)} to {number(high)})"
        yield name, number(value) + between


def _sizes(sizes: Mapping[Size, str]) -> Iterator[str]:
    """What each size runs and needs."""
    yield from _table(("size", "what it runs"), ((f"`--size {s.value}`", text) for s, text in sizes.items()))


def index_page(entries: "Sequence[Entry]") -> str:
    """The ledger as a table."""
    rows = [
        (
            f"[{e.title}]({e.method}.md)" if e.evidence else e.title,
            e.claim,
            f"**{e.verdict}**" if e.evidence else e.verdict,
            e.evidence.date.replace("-", "\u2011") if e.evidence else "",  # hyphens that do not break
            e.evidence.size.value if e.evidence else "",
        )
        for e in entries
    ]
    lines = [
        "# The claims ledger",
        "",
        "What the papers say, and what came out when it was tested here. Every claim has an experiment whose rule for",
        "the verdict is fixed beforehand and can come out negative; both sides of a comparison get the same tuning",
        "budget. A page shows the figures, the conditions and how to run it again: `steepest reproduce METHOD`.",
        "",
        "Verdicts hold for the size that was run. The size `laptop` takes minutes on two cores: it can show a",
        "mechanism, but not that something happens at a scale it does not reach.",
        "",
        *_table(("method", "claim", "verdict", "date", "size"), rows),
        "",
        "- **reproduced**: the figures show what the claim says.",
        "- **partly**: a part of it; the page says which part, and what speaks against the rest.",
        "- **not reproduced**: the figures speak against it.",
        "- **inconclusive**: the figures do not decide, for want of seeds or because they spread too wide.",
    ]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Any) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---" for _ in head) + " |"
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |"


def number(value: float | int | None) -> str:
    """A figure as people write it."""
    if value is None:
        return "none"
    return str(value) if isinstance(value, int) else f"{value:.4g}"
