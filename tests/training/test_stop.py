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


TWICE = """
import time
from frcnn_jax.training.stop import Stop
with Stop():
    print("ready", flush=True)
    time.sleep(600)
    print("slept on", flush=True)
"""


def test_a_second_signal_leaves_at_once():
    process = subprocess.Popen(
        [sys.executable, "-c", TWICE],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert "SIGINT: saving, then leaving" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, told = process.communicate()
    assert process.returncode == 130 and "slept on" not in out
    assert "twice: leaving at once" in told
