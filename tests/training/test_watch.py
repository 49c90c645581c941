import time

from frcnn_jax.training.watch import Watch


def told(capsys):
    return [x for x in capsys.readouterr().err.splitlines() if x.startswith("waiting")]


def test_a_long_wait_is_told_and_told_again_later(capsys):
    watch = Watch(long=0.04)
    with watch.on("the data of step 7"):
        time.sleep(0.5)
    lines = told(capsys)
    assert 2 <= len(lines) < 10  # each pause twice as long
    assert all(x.startswith("waiting for the data of step 7 for ") for x in lines)
    time.sleep(0.1)
    assert not told(capsys)


def test_short_waits_are_not_told(capsys):
    watch = Watch(long=0.2)
    for _ in range(10):
        with watch.on("a step"):
            time.sleep(0.01)
    assert not told(capsys)
