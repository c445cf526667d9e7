"""One run at a time in a results folder: a lock in a folder, a lease in an object store, which has no locks."""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ...utils import UserError, locked
from .store import Bucket, Store

LOCK, LEASE = "run.lock", "run.lease.json"

# A lease that was not renewed for so long belongs to a killed run. The clocks of machines differ by less.
LEASE_SECONDS = 120
RENEWALS = 6  # in that time

# A run that wrote its lease waits, and then checks that no other run wrote one at the same time.
SETTLE_SECONDS = 2.0


@contextlib.contextmanager
def exclusive(results: Store) -> Iterator[Callable[[], None]]:
    """Reserve results for this run; a `UserError` if another run is writing there.

    Yields a function to call now and then. It raises a `UserError` if another run has taken the results, which happens
    when this run could not renew its lease.
    """
    if not isinstance(results, Bucket):
        with locked(Path(results.path, LOCK), f"is writing into {results.path}"):
            yield lambda: None
        return
    lease = Lease(results)
    lease.take()
    stopped = threading.Event()
    renewing = threading.Thread(target=lease.keep, args=(stopped,), daemon=True)
    renewing.start()
    try:
        yield lease.check
    finally:
        stopped.set()
        renewing.join()
        lease.release()


class Lease:
    """A file in an object store that names the run that writes there, and says when it was last alive."""

    def __init__(self, results: Store):
        self.results = results
        self.run = uuid.uuid4().hex
        self.renewed = 0.0

    def take(self) -> None:
        other = self._read()
        age = time.time() - other.get("renewed", 0)
        if other and age < LEASE_SECONDS:
            raise UserError(
                f"Another run is writing into {self.results.path}: process {other['process']} on {other['host']}, "
                f"{max(age, 0):.0f} s ago. Wait until it ends, or choose other --results. If it was killed, repeat the "
                f"command in {LEASE_SECONDS - age:.0f} s."
            )
        self._write()
        time.sleep(SETTLE_SECONDS)
        self.check(now=True)

    def keep(self, stopped: threading.Event) -> None:
        """Renew the lease until the event is set, or another run has taken it."""
        while not stopped.wait(LEASE_SECONDS / RENEWALS):
            with contextlib.suppress(OSError):  # The store may answer next time.
                if self._read().get("run") != self.run:
                    self.renewed = 0
                    return
                self._write()

    def check(self, now: bool = False) -> None:
        """Raise a `UserError` if the lease is lost; `now` asks the store."""
        if time.time() - self.renewed > LEASE_SECONDS or (now and self._read().get("run") != self.run):
            raise UserError(
                f"Another run may be writing into {self.results.path}, so this one has stopped. When the other has "
                f"ended, repeat the command; it continues."
            )

    def release(self) -> None:
        with contextlib.suppress(OSError):
            if self._read().get("run") == self.run:
                self.results.remove(LEASE)

    def _read(self) -> dict:
        try:
            return dict(json.loads(self.results.read(LEASE)))
        except (FileNotFoundError, ValueError):
            return {}

    def _write(self) -> None:
        renewed = time.time()
        row = {"run": self.run, "host": socket.gethostname(), "process": os.getpid(), "renewed": renewed}
        self.results.write(LEASE, json.dumps(row).encode())
        self.renewed = renewed
