"""Progress with and without a terminal, on a clock that the test moves."""

import io

import pytest

from msinet import progress
from msinet.progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    monkeypatch.setattr(progress, "LOG_SECONDS", 30)
    monkeypatch.setattr(ProgressBar, "spoke", None)
    return clock


def walk(bar, clock, *seconds):
    """Let each item take so many seconds."""
    for _, passed in zip(bar, seconds, strict=True):
        clock.now += passed


def test_without_a_terminal_each_half_minute_prints_a_line(clock):
    log = io.StringIO()
    walk(ProgressBar(range(10), total=10, desc="lite", unit="image", file=log), clock, *[7] * 10)
    first, second = log.getvalue().splitlines()
    assert first.startswith("lite: ") and "5/10" in first and "00:35" in first
    assert second == "lite: 10/10 images, 01:10, 00:00 remaining"
    assert "\r" not in log.getvalue()


def test_short_work_prints_nothing_without_a_terminal(clock):
    log = io.StringIO()
    walk(ProgressBar(range(3), total=3, file=log), clock, 9, 9, 9)
    assert log.getvalue() == ""


def test_short_stages_are_logged_together(clock):
    log = io.StringIO()
    for stage in ("a", "b", "c"):
        walk(ProgressBar(range(4), total=4, desc=stage, file=log), clock, 5, 5, 5, 5)
    assert [line.split(",")[0] for line in log.getvalue().splitlines()] == ["b: 2/4 its", "c: 4/4 its"]


def test_updates_by_hand_are_logged_too(clock):
    log = io.StringIO()
    with ProgressBar(total=100, unit="B", file=log) as bar:
        for _ in range(4):
            clock.now += 16
            bar.update(10)
    assert [line.split("/")[0][-2:] for line in log.getvalue().splitlines()] == ["20", "40"]


def test_terminal_shows_the_bar_at_once_and_removes_it(clock):
    terminal = Terminal()
    bar = ProgressBar(range(2), total=2, desc="lite", unit="image", file=terminal)
    assert "lite: 0/2 images, 00:00" in terminal.getvalue()
    walk(bar, clock, 1, 1)
    assert terminal.getvalue().endswith("\r") and "\n" not in terminal.getvalue()


def test_remaining_time_waits_for_enough_items_and_ignores_the_slow_first_one(clock):
    bar = ProgressBar(total=101, unit="image", file=Terminal())
    clock.now += 20  # The network is compiled.
    bar.update()
    assert "<" not in str(bar) and "1/101 images, 00:20" in str(bar)
    for _ in range(4):
        clock.now += progress.FIRST_SECONDS / 2
        bar.update()
    assert "<" not in str(bar)
    for _ in range(6):
        clock.now += 0.5
        bar.update()
    # Ten items in 13 seconds after the first; 90 remain.
    assert "[00:33<01:57" in str(bar)
