import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from frcnn_jax.training.stop import Stop, Stopped


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_one_signal_is_noted_and_handlers_are_given_back(number, code):
    before = signal.getsignal(number)
    with Stop() as stop:
        assert not stop.now(1)
        stop.check()
        os.kill(os.getpid(), number)
        assert stop.now(2) and stop.requested == number
        with pytest.raises(Stopped, match="during an evaluation") as caught:
            stop.check()
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before


def program(text, **more):
    """A process that runs this, up to its "ready"."""
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )
    assert process.stdout.readline() == "ready\n"
    return process


TWICE = """
import time
from frcnn_jax.training.stop import Stop
with Stop():
    print("ready", flush=True)
    time.sleep(600)
    print("slept on", flush=True)
"""


def test_a_second_signal_leaves_at_once():
    process = program(TWICE)
    process.send_signal(signal.SIGINT)
    assert "SIGINT: saving, then leaving" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, told = process.communicate()
    assert process.returncode == 130 and "slept on" not in out
    assert "twice: leaving at once" in told


# ---- before and after training

EARLY = """
import hashlib, sys, time
from frcnn_jax.training.stop import leave_at_once
leave_at_once()
leave_at_once()
assert not {"jax", "numpy"} & set(sys.modules)  # signals are taken before they load
print("ready", flush=True)
"""
WAITS = {
    "python": "time.sleep(600)",
    # Python calls no handler before this is done.
    "library": "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)",
}


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_one_signal_while_nothing_is_trained_ends_the_process(wait, number, code):
    process = program(EARLY + WAITS[wait])
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code
    assert told == (
        f"{number.name}: leaving at once, nothing is being saved; the same command"
        " continues\n"
    )


AROUND = """
import time
from frcnn_jax.training.stop import Stop, leave_at_once
leave_at_once()
with Stop() as stop:
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.01)
print("trained", flush=True)
time.sleep(600)
"""


def test_training_takes_signals_over_and_gives_them_back():
    process = program(AROUND)
    process.send_signal(signal.SIGTERM)
    assert "SIGTERM: saving, then leaving" in process.stdout.readline()
    assert process.stdout.readline() == "trained\n"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130 and told.startswith("SIGINT: leaving at once")


# What Python takes down last waits for a word.
LATE = """
import os
from frcnn_jax.training.stop import leave_at_once
class Last:
    def __del__(self, read=os.read, write=os.write):
        write(1, b"ready\\n")
        read(0, 1)
leave_at_once()
last = Last()
"""


def test_a_process_that_is_ending_ends_as_it_would():
    process = program(LATE, stdin=subprocess.PIPE)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate("x", timeout=60)
    assert (process.returncode, told) == (0, "")
