"""Learning-rate schedules, and what else follows the course of a run: freezing, batch sizes, averages of iterates."""

__all__: list[str] = []

CARDS = ()
