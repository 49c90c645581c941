"""Being told to stop: signals are noted, and the loop leaves at the end of a step.

The first SIGTERM or SIGINT asks for a checkpoint and an end, a second one ends the
process at once. Exit codes are those of a shell: 143 after SIGTERM, 130 after SIGINT.
Nothing here needs a service, so it works on one host as under a scheduler; of several
processes one that is told stops all of them at the same step. Before and after training
there is nothing to save: there one signal ends the process (`leave_at_once`).

JAX is imported where it is needed, so that signals are taken before it is there.
"""

import atexit
import os
import signal
import socket
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
AGREE_EVERY = 10  # steps between which several processes compare notes


class Stopped(ArithmeticError):
    """Training ended early because it was told to; everything is saved."""

    prefix = ""  # of the message: no error

    def __init__(self, message: str, exit_code: int):
        """Keep the exit code of the process."""
        super().__init__(message)
        self.exit_code = exit_code


class Stop:
    """Notes signals while it is entered; `requested` is the first of them, or 0."""

    def __init__(self):
        """Nothing is requested yet."""
        self.requested = 0
        self._before: dict[int, Any] = {}  # their handlers
        self._woken = -1

    def __enter__(self) -> "Stop":
        """Takes over SIGTERM and SIGINT."""
        self._woken = signal.set_wakeup_fd(-1)  # see `leave_at_once`
        self._before = {s: signal.signal(s, self._note) for s in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        """Gives them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)

    def _note(self, number: int, _: FrameType | None) -> None:
        # Not print: the signal may have come in the middle of one. On a terminal the
        # message takes the place of a progress bar, which hides the cursor.
        bar = os.isatty(1)
        if self.requested:
            os.write(1, b"\r\x1b[2K\x1b[?25h" if bar else b"")
            os.write(2, b"told to stop twice: leaving at once, nothing more is saved\n")
            os._exit(128 + number)
        self.requested = number
        name = signal.Signals(number).name
        told = f"{name}: saving, then leaving (again: at once)\n"
        os.write(1, (b"\r\x1b[2K" if bar else b"") + told.encode())

    def now(self, step: int) -> bool:
        """Says whether to stop after this step; the same in every process."""
        import jax
        import numpy as np
        from jax.experimental import multihost_utils

        if jax.process_count() == 1:
            return bool(self.requested)
        if step % AGREE_EVERY:
            return False
        told = multihost_utils.process_allgather(np.int32(self.requested))
        self.requested = int(told.max())
        return bool(self.requested)

    def check(self) -> None:
        """Raises Stopped where one process can decide that by itself."""
        import jax

        if self.requested and jax.process_count() == 1:
            raise self.error("during an evaluation, which will be done again")

    def error(self, when: str) -> Stopped:
        """Return what to raise once all is saved."""
        name = signal.Signals(self.requested).name
        return Stopped(
            f"stopped by {name} {when}; the same command continues",
            128 + self.requested,
        )


_leaving = threading.Lock()
_sockets: list[socket.socket] = []


def leave_at_once() -> None:
    """From now on a signal ends the process with a sentence, until a `Stop` is entered.

    For the main thread, as soon as possible; again after something else took signals
    over, as JAX does when processes join. A thread watches too, for Python calls no
    handler while the main one is inside a library, compiling or waiting for others.
    """
    if not _sockets:
        _sockets[:] = socket.socketpair()
        _sockets[1].setblocking(False)
        signal.set_wakeup_fd(_sockets[1].fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_watch, args=(_sockets[0],), daemon=True).start()
        atexit.register(_ignore)  # registered first, so called last
    for number in SIGNALS:
        signal.signal(number, _leave)


def _watch(told: socket.socket) -> None:
    """Leaves for each signal that was not for a `Stop`, which lets none come here."""
    while received := told.recv(1):
        if received[0] in SIGNALS:
            _leave(received[0], None)


def _ignore() -> None:
    """While Python takes itself down nobody is left to answer: it ends as it would."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _leave(number: int, _: FrameType | None) -> None:
    if _leaving.acquire(blocking=False):  # the first of the two threads
        text = "leaving at once, nothing is being saved; the same command continues"
        os.write(2, f"{signal.Signals(number).name}: {text}\n".encode())
        os._exit(128 + number)
