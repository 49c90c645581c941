import time

from frcnn_jax.training.watch import Watch


def told(capsys):
    return [x for x in capsys.readouterr().err.splitlines() if x.startswith("waiting")]


def test_a_long_wait_is_told_and_told_again_after_twice_as_long(capsys):
    watch, start = Watch(), time.monotonic()
    with watch.on("the data of step 7"):
        for seconds in range(35, 300, 10):
            watch.look(start + seconds)
        lines = told(capsys)
    assert lines == [
        f"waiting for the data of step 7 for {n} s" for n in (65, 135, 275)
    ]
    watch.look(start + 1000)
    assert not told(capsys)


def test_each_wait_counts_by_itself(capsys):
    watch = Watch()
    for _ in range(3):
        with watch.on("a step"):
            watch.look(time.monotonic() + 50)
    assert not told(capsys)


def test_the_thread_looks_by_itself(capfd):
    watch = Watch(long=0.01)
    with watch.on("the data"):
        for _ in range(1000):
            time.sleep(0.01)
            if lines := told(capfd):
                break
    assert lines[0].startswith("waiting for the data for ")
