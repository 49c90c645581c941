"""Plain lines here; on a pseudo-terminal, what rich makes of them."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from frcnn_jax import terminal
from frcnn_jax.terminal import Rows

ROOT = Path(__file__).resolve().parents[1]
TABLE = Rows([("class", "AP"), ("猫", "0.500"), ("long [bold]name", "n/a")])


def test_tables_are_aligned_by_what_letters_take():
    assert terminal.text(["head", TABLE]).split("\n") == [
        "head",
        "class               AP",
        "猫               0.500",
        "long [bold]name    n/a",
    ]
    assert terminal.aligned([("a", "b"), ("ccc", "d")], left=0) == ["  a  b", "ccc  d"]


def test_without_a_terminal_lines_are_plain(capsys):
    terminal.show(["head", TABLE])
    assert capsys.readouterr().out == terminal.text(["head", TABLE]) + "\n"


def test_progress_in_lines(capsys):
    assert list(terminal.track("abcd", "reading", 4)) == [*"abcd"]
    assert capsys.readouterr().out == ""  # sooner than the first line is due
    assert list(terminal.track("abc", "reading", 5, done=2, every=1e-9)) == [*"abc"]
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0].startswith("reading 3/5  eta ") and lines[-1] == "reading 5/5  eta 0s"
    )
    assert list(terminal.track("ab", "reading", None, every=1e-9)) == [*"ab"]
    assert capsys.readouterr().out == "reading 1\nreading 2\n"
    assert list(terminal.track("ab", "reading", 2, every=0)) == [*"ab"]
    assert capsys.readouterr().out == ""


def test_items_are_taken_one_at_a_time_and_closed():
    closed = []

    def items():
        try:
            yield from range(9)
        finally:
            closed.append(True)

    some = terminal.track(items(), "reading", 9, every=0)
    assert next(some) == 0 and not closed
    some.close()
    assert closed


def seen(code: str, **variables: str) -> str:
    """What a script writes to a terminal of 60 columns."""
    main, side = pty.openpty()
    words = {"COLUMNS": "60", "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=side,
        stderr=side,
        env={**os.environ, **words, **variables},
    )
    os.close(side)
    text = b""
    try:
        while part := os.read(main, 65536):
            text += part
    except OSError:  # Linux's way to say that the other side is closed
        pass
    os.close(main)
    assert run.wait(60) == 0
    return text.decode()


SHOW = f"""
from frcnn_jax import terminal
terminal.show(["head [x]", terminal.Rows({TABLE.rows!r})])
for item in terminal.track("abc", "reading", 3):
    print("item", item)
    terminal.show([f"shown {{item}}"])
"""


def test_on_a_terminal_rich_draws():
    text = seen(SHOW)
    assert "─" * 5 in text and "head [x]" in text and "long [bold]name" in text
    assert "reading" in text and "3/3" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # the cursor is back
    for item in "abc":  # above the bar, whose line is wiped first
        assert f"\r\x1b[2Kitem {item}" in text
        assert f"\r\x1b[2Kshown {item}" in text


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"JPY_PARENT_PID": "1"}])
def test_terminals_that_cannot_move_their_cursor_get_lines(variables):
    text = seen(SHOW, **variables)
    assert "\x1b" not in text and "item a" in text and "reading" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (0, "0s"), (5.9, "5s"), (65, "1m05s"), (3725, "1h02m")],
)
def test_durations(seconds, text):
    assert terminal.duration(seconds) == text


def test_figures():
    assert [terminal.figure(x) for x in (None, 0.12345)] == ["n/a", "0.123"]
