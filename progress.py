"""ProgressBar of long work: a bar on a terminal, and elsewhere a line every 30 seconds."""

import sys
from typing import ClassVar

from tqdm import tqdm

from .terminal import is_terminal

LOG_SECONDS = 30

# The first items are slow, for example because the network is compiled, so they say nothing about the remaining time.
FIRST_SECONDS, FIRST_SHARE = 5, 0.05

WITHOUT_ETA = "{desc}{n_fmt}/{total_fmt} {unit}, {elapsed}{postfix}"
WITH_ETA = "{desc}{n_fmt}/{total_fmt} {unit}, {elapsed}, {remaining} remaining{postfix}"  # for lines


class ProgressBar(tqdm):
    """A bar of tqdm that is removed at the end.

    Its remaining time is shown when it means something, and is that of the items after the first. Where there is no
    terminal, such as with nohup, Slurm or in CI, each 30 seconds of progress print one line to standard error.
    """

    # When a line was printed, or the first bar was made: many short stages take as long as a long one.
    spoke: ClassVar[float | None] = None

    def __init__(self, *args, **options) -> None:
        self.first: tuple[float, float] | None = None  # time and number when the first items were done
        self.on_terminal = is_terminal(options.get("file") or sys.stderr)
        if not self.on_terminal:
            # `miniters` 1: look at the clock at each item.
            options |= {"mininterval": LOG_SECONDS, "delay": LOG_SECONDS, "miniters": 1}
        super().__init__(*args, leave=False, **options)
        if not self.on_terminal and not self.disable:
            if ProgressBar.spoke is None:
                ProgressBar.spoke = self.start_t
            self.last_print_t, self.delay = ProgressBar.spoke, 0

    def update(self, n: float = 1):
        if self.first is None and not self.disable:
            self.first = self._time(), self.n + n
        return super().update(n)

    @property
    def format_dict(self) -> dict:
        shown = super().format_dict
        shown["unit"] = f"{self.unit}s" if len(self.unit) > 1 else self.unit
        shown["prefix"] = f"{self.desc.removesuffix(': ')}: " if self.desc else ""
        if not self.total:
            return shown
        if rate := self._rate():
            return shown | {"rate": rate} | ({} if self.on_terminal else {"bar_format": WITH_ETA})
        return shown | {"bar_format": WITHOUT_ETA}

    def _rate(self) -> float | None:
        """Items per second after the first items, or None if it is too early."""
        if self.first is None or not self.total:
            return None
        seconds, done = self._time() - self.first[0], self.n - self.first[1]
        enough = seconds >= FIRST_SECONDS and done >= FIRST_SHARE * self.total
        return done / seconds if enough else None

    def display(self, msg: str | None = None, pos: int | None = None):
        if self.on_terminal:
            return super().display(msg, pos)
        if msg is None:
            ProgressBar.spoke = self._time()
            print(str(self).strip(), file=self.fp, flush=True)
        return True

    def close(self):
        if not self.on_terminal:
            self.disable = True  # There is no bar to remove.
        super().close()
