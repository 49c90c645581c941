"""A word when something takes suspiciously long: the data, or a step."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

LONG = 60.0  # seconds before the first word; each next one waits twice as long


class Watch:
    """Tells on standard error what the main thread has been waiting for."""

    def __init__(self, long: float = LONG):
        """Starts the watching thread, which ends with the process."""
        self._long, self._what, self._since = long, "", 0.0
        self._told = 0.0
        threading.Thread(target=self._run, daemon=True).start()

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Watches what happens inside."""
        self._since, self._told, self._what = time.monotonic(), 0.0, what
        try:
            yield
        finally:
            self._what = ""

    def look(self, now: float) -> None:
        """Says a word if it is due at this time (`time.monotonic`)."""
        what, waited = self._what, now - self._since
        if what and waited > max(self._long, 2 * self._told):
            self._told = waited
            print(f"waiting for {what} for {waited:.0f} s", file=sys.stderr, flush=True)

    def _run(self) -> None:
        while True:
            time.sleep(self._long / 4)
            self.look(time.monotonic())
