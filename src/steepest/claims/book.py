"""The ledger: what is known of every method's claim, and the folder it is written to."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from steepest.arena.errors import BadInput
from steepest.catalogue import cards
from steepest.core.files import write_text

from .claim import Claim, check_size
from .entries import load, registry
from .evidence import Evidence, Size, read, write
from .figure import save
from .pages import claim_page, index_page

__all__ = ["NOT_RUN", "NOT_TESTED", "Entry", "ledger", "reproduce", "rewrite_pages", "writable", "write_index"]

NOT_TESTED = "not yet tested"
NOT_RUN = "not run here"


@dataclass(frozen=True)
class Entry:
    """A line of the ledger.

    Args:
        method: the card's name.
        title: the name people write.
        room: the card's room.
        claim: the claim in one sentence.
        verdict: a :class:`~steepest.claims.evidence.Verdict`, ``"not run here"`` where the folder has no evidence, or
            ``"not yet tested"`` where nobody has written the experiment.
        evidence: the evidence, if there is some.
    """

    method: str
    title: str
    room: str
    claim: str
    verdict: str
    evidence: Evidence | None


def ledger(folder: str | Path = "claims", room: str | None = None) -> list[Entry]:
    """Every method of the library whose card states a claim, with the verdict that the evidence in ``folder`` gives.

    Args:
        folder: where ``<method>.json`` lie; a folder that does not exist holds none.
        room: only the methods of this room (``"optim"``, ...).

    Raises:
        ValueError: a file there is no evidence; the message names it.
    """
    tested = registry()
    found = []
    for name, card in sorted(cards(room).items()):
        if card.wraps or not (card.claim or name in tested):
            continue
        claim = tested.get(name)
        path = Path(folder) / f"{name}.json"
        evidence = read(path) if claim is not None and path.is_file() else None
        verdict = evidence.verdict.value if evidence else (NOT_RUN if claim else NOT_TESTED)
        found.append(Entry(name, card.title, card.room, claim.statement if claim else card.claim, verdict, evidence))
    return found


def reproduce(
    name: str,
    size: str | Size = Size.LAPTOP,
    out: str | Path | None = None,
    seed: int = 0,
    say: Callable[[str], None] | None = None,
) -> Evidence:
    """Test the claim of a method's paper.

    Args:
        name: the method.
        size: ``"smoke"`` (seconds), ``"laptop"`` (minutes on two cores) or ``"full"`` (the paper's scale).
        out: a folder for ``<name>.json``, ``<name>.svg``, ``<name>.md`` and ``index.md``; made if missing. ``None``
            writes nothing.
        seed: the base seed, at least 0.
        say: is told, in a few words, what is being done.

    Raises:
        UnknownName: there is no such claim.
        BadInput: the size or the seed is not one, or ``out`` cannot be written; found before anything is run.
    """
    claim = load(name)
    chosen = check_size(size)
    folder = None if out is None else writable(Path(out))
    evidence = claim.run(chosen, seed) if say is None else claim.run(chosen, seed, say)
    if folder is not None:
        write_pages(claim, evidence, folder)
    return evidence


def write_pages(claim: Claim, evidence: Evidence, folder: Path) -> None:
    """Write evidence, figure and page of a claim, and the ledger of the folder anew."""
    write(evidence, folder)
    save(lambda: claim.draw(evidence.figures, evidence.series), folder / f"{claim.method}.svg")
    write_text(folder / f"{claim.method}.md", claim_page(claim, evidence))
    write_index(folder)


def rewrite_pages(folder: Path) -> None:
    """Write figures and pages anew from the evidence in the folder; nothing is run.

    Raises:
        ValueError: the evidence of a claim was judged by another rule than the one there is now.
    """
    for name, claim in registry().items():
        path = folder / f"{name}.json"
        if path.is_file():
            evidence = read(path)
            if evidence.rule != claim.rule or claim.decide(evidence.figures).verdict != evidence.verdict:
                raise ValueError(f"{path}: the rule has changed since; run `steepest reproduce {name}` again")
            write_pages(claim, replace(evidence, sentence=claim.decide(evidence.figures).sentence), folder)
    write_index(folder)


def write_index(folder: Path) -> None:
    """Write ``index.md``: the ledger of all rooms."""
    write_text(folder / "index.md", index_page(ledger(folder)))


def writable(folder: Path) -> Path:
    """The folder, made if missing and tried.

    Raises:
        BadInput: nothing can be written there.
    """
    probe = folder / ".steepest-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise BadInput(f"out: cannot write into {str(folder)!r}: {error.strerror or error}") from error
    return folder
