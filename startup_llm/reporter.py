"""What a recipe shows a person while it works: lines, one bar of progress, and tables."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_WIDTH_OF_A_LOG = 400
"""Columns of a table in a file or a pipe, which wraps nothing."""


class Reporter:
    """Writes for a person to read; the one way by which the package reaches the console.

    On a terminal a bar shows the work in hand below the lines. Elsewhere there is neither bar nor colour, so that a
    log holds the lines alone.

    Args:
        stream: Where to write, such as `sys.stdout`; None writes nothing.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._bars: list[ProgressBar] = []
        self._progress: Progress | None = None

    def report(self, *lines: str) -> None:
        """Write a line, and the further ones indented below it; nothing where there is no line."""
        if lines and self._stream is not None:
            self._console.print("\n  ".join(lines), soft_wrap=True)

    def show_table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table whose columns are aligned: the first to the left, the others to the right.

        Args:
            header: Names of the columns.
            rows: Cells of each row.
        """
        if self._stream is None:
            return
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
        for place, name in enumerate(header):
            table.add_column(name, justify="right" if place else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)

    @contextmanager
    def show_progress(self, title: str, total: float | None = None, unit: str = "") -> Iterator[ProgressBar]:
        """Show a bar until the block ends, in the place of the one around it.

        Args:
            title: What is being done.
            total: Units of work; None where that is not known.
            unit: Their name in the plural, such as steps.
        """
        bar = self.open_progress(title, total, unit)
        try:
            yield bar
        finally:
            bar.close()

    def open_progress(self, title: str, total: float | None = None, unit: str = "") -> ProgressBar:
        """Show a bar until it is closed, or the one around it is; the arguments are those of `show_progress`."""
        if self._stream is None or not self._stream.isatty():
            return ProgressBar(self, None)
        if self._progress is None:
            self._progress = _build_progress(self._console)
            self._progress.start()
        for outer in self._bars:
            self._progress.update(outer.task, visible=False)
        bar = ProgressBar(self, self._progress.add_task(title, total=total, unit=unit))
        self._bars.append(bar)
        return bar

    def _advance(self, bar: ProgressBar, units: float, title: str | None) -> None:
        if bar in self._bars and self._progress is not None:
            self._progress.update(bar.task, advance=units, description=title)

    def _close(self, bar: ProgressBar) -> None:
        """Remove a bar and those within it, which an exception may have left open."""
        if bar not in self._bars or self._progress is None:
            return
        place = self._bars.index(bar)
        for closed in self._bars[place:]:
            self._progress.remove_task(closed.task)
        del self._bars[place:]
        if self._bars:
            self._progress.update(self._bars[-1].task, visible=True)
        else:
            self._progress.stop()
            self._progress = None

    @functools.cached_property
    def _console(self) -> Console:
        from rich.console import Console

        is_terminal = self._stream is not None and self._stream.isatty()
        return Console(
            file=self._stream,
            force_terminal=is_terminal,
            width=None if is_terminal else _WIDTH_OF_A_LOG,
            highlight=False,
            markup=False,
            emoji=False,
        )


class ProgressBar:
    """How far a piece of work is.

    Args:
        reporter: What shows it.
        task: Its number on the terminal; None where nothing is shown.
    """

    def __init__(self, reporter: Reporter, task: Any) -> None:
        self._reporter, self.task = reporter, task

    def advance(self, units: float = 1, title: str | None = None) -> None:
        """Count units of work that are done.

        Args:
            units: Their number.
            title: What is being done from now on; None for the same as before.
        """
        self._reporter._advance(self, units, title)

    def close(self) -> None:
        """Take the bar from the terminal."""
        self._reporter._close(self)


def _build_progress(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class KnownBar(BarColumn):
        """A bar for work whose total is known; without one there is nothing to fill."""

        def render(self, task: Task) -> Any:
            return Text() if task.total is None else super().render(task)

    class Count(ProgressColumn):
        """Units done and time left; where the total is not known, the time taken."""

        def render(self, task: Task) -> Text:
            if task.total is None:
                return Text(_format_clock(task.elapsed or 0), style="dim")
            left = "" if task.time_remaining is None else f", {_format_clock(task.time_remaining)} left"
            return Text(f"{task.completed:,.0f}/{task.total:,.0f} {task.fields['unit']}{left}", style="dim")

    columns = (TextColumn("{task.description}"), KnownBar(bar_width=30), Count())
    return Progress(*columns, console=console, transient=True, refresh_per_second=2)


def _format_clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
