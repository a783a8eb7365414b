"""What a person sees: lines in a log, and lines over one bar on a terminal."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import threading
import time
from collections.abc import Callable

import pytest

from startup_llm.reporter import Reporter


@pytest.fixture
def show() -> Callable[[Callable[[Reporter], None]], str]:
    """Return a function that hands over a reporter on a pseudo-terminal, and returns what the terminal was sent."""

    def run(function: Callable[[Reporter], None]) -> str:
        ours, theirs = pty.openpty()
        parts: list[bytes] = []
        reader = threading.Thread(target=read_all, args=(ours, parts))
        reader.start()
        with open(theirs, "w", encoding="utf-8") as terminal:
            function(Reporter(terminal))
        reader.join()
        os.close(ours)
        return b"".join(parts).decode()

    return run


def read_all(descriptor: int, parts: list[bytes]) -> None:
    with contextlib.suppress(OSError):  # how Linux tells that the other end is closed
        while part := os.read(descriptor, 4096):
            parts.append(part)


def test_a_log_holds_lines_and_tables_without_colour_or_bar():
    log = io.StringIO()
    reporter = Reporter(log)
    with reporter.show_progress("training", total=3, unit="steps") as bar:
        bar.advance()
        reporter.report(f"a [line] of {'x' * 300}", "and one below")
    reporter.report()
    reporter.show_table(["model", "accuracy"], [["lora", "91.0 %"], ["majority", "8.9 %"]])
    lines = [line.rstrip() for line in log.getvalue().splitlines()]
    assert lines == [
        f"a [line] of {'x' * 300}",
        "  and one below",
        "model      accuracy",
        "lora         91.0 %",
        "majority      8.9 %",
    ]


def test_without_a_stream_nothing_is_written(capfd):
    reporter = Reporter()
    with reporter.show_progress("training", total=3) as bar:
        bar.advance()
        reporter.report("a line")
        reporter.show_table(["model"], [["lora"]])
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_the_bar_of_the_work_in_hand_alone(show):
    def work(reporter: Reporter) -> None:
        with reporter.show_progress("train"):
            time.sleep(0.6)
            with reporter.show_progress("training", total=4, unit="steps") as bar:
                bar.advance(2)
                reporter.report("epoch 1")
                time.sleep(0.6)
                bar.advance(1, "validation")
                time.sleep(0.6)

    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", show(work))
    parts = [part for part in re.split(r"[\r\n]+", drawn) if part.strip()]
    assert "epoch 1" in parts
    assert any("2/4 steps" in part for part in parts)
    assert any(part.startswith("validation") and "3/4 steps" in part for part in parts)
    assert not [part for part in parts if "train " in part and "training" in part]


def test_a_bar_that_an_error_left_open_goes_with_the_one_around_it(show):
    def work(reporter: Reporter) -> None:
        with contextlib.suppress(ValueError), reporter.show_progress("train"):
            reporter.open_progress("training", total=4, unit="steps")
            raise ValueError
        reporter.report("a line after it")

    drawn = show(work)
    assert drawn.rstrip().endswith("a line after it")
    assert drawn.count("\x1b[?25h") == 1  # the cursor is shown again
