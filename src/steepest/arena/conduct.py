"""Conducts a comparison: hands out the places of the plan, stores what comes back, gathers the results."""

import itertools
import time
from dataclasses import dataclass, field
from typing import Any

import optuna
import torch

from steepest.core.card import MethodCard

from .execute import Executor
from .jobs import Earlier, Job, Pruning, portable
from .measure import environment, now
from .plan import Plan, PlannedTask, differs
from .progress import Progress, Row
from .results import Comparison, MethodInfo, RunRecord, TrialRecord
from .storage import Mark, Store
from .train import Outcome
from .tune import decode, distributions, encode, suggest

__all__ = ["Conductor"]

#: Seconds between looks at a shared database while others finish their part.
POLL = 1.0


@dataclass
class Entry:
    """A method on a task: its two studies and what is known of them."""

    planned: PlannedTask
    card: MethodCard
    tuning: str
    final: str
    settings: dict[int, dict[str, Any]] = field(default_factory=dict)  # slot -> settings
    tuned: dict[int, Outcome] = field(default_factory=dict)  # slot -> how the trial ended
    scored: dict[Mark, Outcome] = field(default_factory=dict)  # final runs, also those of earlier winners
    taken: set[Mark] = field(default_factory=set)  # somebody works on it

    @property
    def row(self) -> Row:
        return self.planned.info.name, self.card.title


@dataclass(frozen=True)
class Flight:
    """A job on its way."""

    entry: Entry
    mark: Mark
    trial: int


class Conductor:
    """One comparison on an open store."""

    def __init__(self, plan: Plan, store: Store, executor: Executor, progress: Progress, started: str) -> None:
        self.plan, self.store, self.executor, self.progress = plan, store, executor, progress
        self.started = started
        self.flights: dict[int, Flight] = {}
        self.tickets = itertools.count()
        self.entries = [self._entry(t, c) for c in plan.cards for t in plan.tasks]

    def _entry(self, planned: PlannedTask, card: MethodCard) -> Entry:
        name, higher = planned.info.name, planned.info.higher_is_better
        studies = [self.store.study(name, card.name, role, higher) for role in ("tuning", "final")]
        for study in studies:
            self.store.agree(study, self.plan.definition(planned, card), differs)
        entry = Entry(planned, card, *studies)
        for study in studies:
            self.store.release_dead(study)
        self.refresh(entry)
        return entry

    def refresh(self, entry: Entry) -> None:
        """Read what the database knows."""
        entry.taken = {f.mark for f in self.flights.values() if f.entry is entry}
        for s in self.store.read(entry.tuning):
            if s.running:
                entry.taken.add(s.mark)
            if s.outcome is not None or s.running:
                entry.settings[s.mark.slot] = decode(entry.card, s.parameters)
            if s.outcome is not None:
                entry.tuned[s.mark.slot] = s.outcome
        for s in self.store.read(entry.final):
            if s.running:
                entry.taken.add(s.mark)
            if s.outcome is not None:
                entry.scored[s.mark] = s.outcome

    # What comes next

    def winner(self, entry: Entry) -> int | None:
        """The slot with the best validation score; the lower loss, then the lower slot decides between equals."""
        sign = -1.0 if entry.planned.info.higher_is_better else 1.0
        ranked = [
            (sign * o.metric, o.loss if o.loss is not None else 0.0, slot)
            for slot, o in entry.tuned.items()
            if slot < self.plan.options.trials and o.status == "complete" and o.metric is not None
        ]
        return min(ranked)[2] if ranked else None

    def tuning_done(self, entry: Entry) -> bool:
        """Whether every slot of the plan has ended."""
        return all(slot in entry.tuned for slot in range(self.plan.options.trials))

    def final_marks(self, entry: Entry) -> list[Mark]:
        """The final runs that the plan wants; none before the tuning is done, or where no trial finished."""
        slot = self.winner(entry) if self.tuning_done(entry) else None
        return [] if slot is None else [Mark(slot, seed) for seed in self.plan.final_seeds]

    def done(self) -> bool:
        """Whether nothing is missing."""
        return all(self.tuning_done(e) and all(m in e.scored for m in self.final_marks(e)) for e in self.entries)

    def _open(self) -> list[tuple[Entry, Mark]]:
        """Open places in order: all methods advance slot by slot, so that a stopped comparison is a fair one."""
        slots = range(self.plan.options.trials)
        found = [(e, Mark(s)) for s in slots for e in self.entries if s not in e.tuned and Mark(s) not in e.taken]
        finals = [(e, m) for e in self.entries for m in self.final_marks(e) if m not in e.scored and m not in e.taken]
        return found + sorted(finals, key=lambda pair: pair[1].seed or 0)

    def _launch(self) -> bool:
        """Start the next job; False where there is none to start now."""
        flight = None
        fresh: set[int] = set()
        with self.store.lock():
            for entry, mark in self._open():
                if self.store.shared and id(entry) not in fresh:
                    self._look(entry)
                    fresh.add(id(entry))
                tuned = mark.seed is None and mark.slot in entry.tuned
                if not (tuned or mark in entry.taken or mark in entry.scored):
                    flight = self._claim(entry, mark)
                    if flight is not None:
                        break
        if flight is None:
            return False
        ticket = next(self.tickets)
        self.flights[ticket] = flight
        flight.entry.taken.add(flight.mark)
        self.executor.submit(ticket, self._job(flight))
        return True

    def _look(self, entry: Entry) -> None:
        """See what others did."""
        self.store.release_dead(entry.tuning)
        self.store.release_dead(entry.final)
        self.refresh(entry)

    def _claim(self, entry: Entry, mark: Mark) -> Flight | None:
        space = distributions(entry.card)
        if mark.seed is None:
            settings = self._suggest(entry, mark.slot)
            trial = self.store.claim(entry.tuning, mark, encode(entry.card, settings), space)
            if trial is None:
                return None
            entry.settings[mark.slot] = settings
        else:
            parameters = {**encode(entry.card, entry.settings[mark.slot]), "seed": mark.seed}
            wide = {**space, "seed": optuna.distributions.IntDistribution(0, 2**31 - 1)}
            trial = self.store.claim(entry.final, mark, parameters, wide)
            if trial is None:
                return None
        return Flight(entry, mark, trial)

    def _suggest(self, entry: Entry, slot: int) -> dict[str, Any]:
        history = []
        for s, settings in sorted(entry.settings.items()):
            ended = entry.tuned.get(s)
            if ended is not None or Mark(s) in entry.taken:
                history.append((settings, ended.metric if ended is not None else None))
        o = self.plan.options
        higher = entry.planned.info.higher_is_better
        return suggest(entry.card, o.seed, slot, o.sampler, higher, history)

    def _job(self, flight: Flight) -> Job:
        entry, mark, o = flight.entry, flight.mark, self.plan.options
        planned = entry.planned
        pruning = None
        if mark.seed is None and o.pruner != "none":
            earlier = tuple(
                Earlier(e.status == "complete", _values(e), e.extra) for _, e in sorted(entry.tuned.items())
            )
            pruning = Pruning(o.pruner, planned.info.higher_is_better, planned.task.evaluations, earlier)
        return Job(
            task=planned.reference,
            key=planned.key,
            card=portable(entry.card),
            settings=entry.settings[mark.slot],
            seed=o.seed if mark.seed is None else mark.seed,
            steps=planned.budget.steps,
            seconds=planned.budget.seconds,
            device=o.device,
            threads=self.plan.threads,
            test=mark.seed is not None,
            pruning=pruning,
        )

    # The loop

    def run(self) -> None:
        """Work until the plan is done, here or elsewhere."""
        o = self.plan.options
        rows = [e.row for e in self.entries]
        self.progress.start(rows, o.trials + o.seeds, [self._count(e) for e in self.entries])
        while True:
            while len(self.flights) < self.executor.capacity and self._launch():
                pass
            if self.flights:
                for ticket, outcome in self.executor.collect(POLL):
                    self._land(self.flights.pop(ticket), outcome)
            elif self.done():
                return
            else:
                time.sleep(POLL)
                for entry in self.entries:
                    with self.store.lock():
                        self._look(entry)

    def _count(self, entry: Entry) -> int:
        slots = sum(s < self.plan.options.trials for s in entry.tuned)
        return slots + sum(m in entry.scored for m in self.final_marks(entry))

    def _land(self, flight: Flight, outcome: Outcome) -> None:
        entry, mark = flight.entry, flight.mark
        entry.taken.discard(mark)
        if not self.store.finish(flight.trial, outcome):
            self.refresh(entry)
            return
        if mark.seed is None:
            entry.tuned[mark.slot] = outcome
            stage = f"tuning {len(entry.tuned)}/{self.plan.options.trials}"
            if outcome.status != "complete":
                stage += f" ({outcome.status})"
        else:
            entry.scored[mark] = outcome
            stage = "final runs"
        self.progress.advance(entry.row, stage, self._best(entry))
        if mark.seed is None and self.tuning_done(entry) and self.winner(entry) is None:
            self.progress.say(
                f"{entry.card.title} on {entry.planned.info.name}: no trial finished, so there is nothing to score"
            )

    def _best(self, entry: Entry) -> str:
        metrics = [o.metric for o in entry.tuned.values() if o.status == "complete" and o.metric is not None]
        if not metrics:
            return "nothing finished yet"
        best = max(metrics) if entry.planned.info.higher_is_better else min(metrics)
        return f"best {entry.planned.info.metric} {best:.4g}"

    # The results

    def comparison(self) -> Comparison:
        """What has been found so far."""
        o = self.plan.options
        device = torch.device(o.device)
        return Comparison(
            tasks=tuple(t.info for t in self.plan.tasks),
            methods=tuple(self._method(c) for c in self.plan.cards),
            trials=tuple(t for e in self.entries for t in self._trials(e)),
            runs=tuple(r for e in self.entries for r in self._runs(e)),
            baseline=o.baseline,
            plan=self.plan.summary(),
            environment={
                **environment(device),
                "threads": self.plan.threads,
                "started": self.started,
                "finished": now(),
            },
            complete=self.done(),
        )

    def _method(self, card: MethodCard) -> MethodInfo:
        lines = {}
        for e in self.entries:
            slot = self.winner(e) if e.card is card else None
            if slot is not None:
                lines[e.planned.info.name] = card.line(**e.settings[slot])
        source = "; ".join(str(p) for p in card.papers) or card.wraps
        search = {name: d.describe() for name, d in card.search.items()}
        return MethodInfo(card.name, card.title, card.summary, source, search, lines)

    def _trials(self, entry: Entry) -> list[TrialRecord]:
        found = []
        for slot, ended in sorted(entry.tuned.items()):
            if slot < self.plan.options.trials:
                score = ended.metric if ended.status == "complete" else None
                found.append(
                    TrialRecord(
                        entry.planned.info.name,
                        entry.card.name,
                        slot,
                        entry.settings[slot],
                        ended.status,
                        ended.reason,
                        score,
                        ended.steps,
                        ended.seconds,
                    )
                )
        return found

    def _runs(self, entry: Entry) -> list[RunRecord]:
        found = []
        for mark in self.final_marks(entry):
            ended = entry.scored.get(mark)
            if ended is None or mark.seed is None:
                continue
            found.append(
                RunRecord(
                    task=entry.planned.info.name,
                    method=entry.card.name,
                    seed=mark.seed,
                    settings=entry.settings[mark.slot],
                    status=ended.status,
                    reason=ended.reason,
                    test_metric=ended.test_metric,
                    test_loss=ended.test_loss,
                    steps=ended.steps,
                    seconds=ended.seconds,
                    peak_memory_bytes=ended.peak_memory_bytes,
                    state_bytes_per_parameter=ended.state_bytes_per_parameter,
                    curve=ended.curve,
                )
            )
        return found


def _values(ended: Outcome) -> dict[int, float]:
    """Validation metrics by number of the evaluation, as the pruner reports them."""
    points = enumerate(ended.curve)
    return {n: p.validation_metric for n, p in points if n and p.validation_metric is not None}
