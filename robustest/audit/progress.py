"""How far a run is: counts that rise as images are finished, and the bar that shows them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from robustest.audit.ledger import Tally
from robustest.audit.work import Event
from robustest.results import Verdict


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts so far, those of earlier sessions included.

    total: images in all. done, flipped, survived, unknown, excluded: images finished. queries: spent on them.
    seconds: since this session began. fresh: images finished in this session.
    """

    total: int
    done: int = 0
    flipped: int = 0
    survived: int = 0
    unknown: int = 0
    excluded: int = 0
    queries: int = 0
    seconds: float = 0.0
    fresh: int = 0

    @property
    def rate(self) -> float:
        """Images finished a second in this session."""
        return self.fresh / self.seconds if self.seconds > 0 else 0.0

    @property
    def flipped_share(self) -> float | None:
        """Share of the images attacked so far that were flipped; None before the first."""
        tested = self.done - self.excluded
        return self.flipped / tested if tested else None

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None where it is not known."""
        return (self.total - self.done) / self.rate if self.fresh and self.rate > 0 else None


class Meter:
    """Turns events into progress.

    Args:
        total: images in all. before: what earlier sessions finished. tell: is given the progress after each image.
    """

    def __init__(self, total: int, before: Tally, tell: Callable[[Progress], None]) -> None:
        self._total, self._tell = total, tell
        self._counts = {kind: getattr(before, kind.value) for kind in Verdict}
        self._queries, self._fresh = before.queries, 0
        self._seen = bytearray(total)  # of each image, whether it was counted
        self._began = time.monotonic()
        self._report()

    def __call__(self, event: Event) -> None:
        if event.verdict is None or self._seen[event.index]:
            return
        self._seen[event.index] = True
        self._counts[event.verdict] += 1
        self._queries += event.queries
        self._fresh += 1
        self._report()

    def _report(self) -> None:
        counts = self._counts
        self._tell(
            Progress(
                total=self._total,
                done=sum(counts.values()),
                flipped=counts[Verdict.FLIPPED],
                survived=counts[Verdict.SURVIVED],
                unknown=counts[Verdict.UNKNOWN],
                excluded=counts[Verdict.EXCLUDED],
                queries=self._queries,
                seconds=time.monotonic() - self._began,
                fresh=self._fresh,
            )
        )


@contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None] | None]:
    """A bar on standard error with rate, flipped share so far and time left; None where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("auditing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} images/s  {task.fields[flipped]} flipped  {task.fields[left]} left"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=None, rate="-", flipped="-", left="-")

        def tell(progress: Progress) -> None:
            share, left = progress.flipped_share, progress.seconds_left
            bars.update(
                task,
                total=progress.total,
                completed=progress.done,
                rate=f"{progress.rate:.2g}",
                flipped="-" if share is None else f"{share:.0%}",
                left="-" if left is None else duration(left),
            )

        yield tell


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 20 s, 5 h 12 min, 3.1 days."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{seconds / 86400:.1f} days"
