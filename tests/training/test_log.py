import json
import time

import numpy as np
import pytest

from frcnn_jax.training import log
from frcnn_jax.training.log import Clock, MetricLog, progress_line


def lines(folder):
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


def test_numbers_are_written_at_once_one_object_a_line(tmp_path):
    metrics = MetricLog(tmp_path, 0)
    metrics.write(1, {"loss": 2.5, "count": 3, "eval/APs": None})
    assert lines(tmp_path) == [{"step": 1, "loss": 2.5, "count": 3, "eval/APs": None}]
    metrics.write(2, {"loss": 1.0, "per_class": {"a": 1}, "done": True, "name": "x"})
    metrics.close()
    assert lines(tmp_path)[1] == {"step": 2, "loss": 1.0}


def test_what_json_does_not_have_is_null(tmp_path):
    metrics = MetricLog(tmp_path, 0)
    metrics.write(1, {"loss": float("nan"), "grad_norm": float("inf"), "lr": 0.1})
    metrics.close()
    assert lines(tmp_path) == [{"step": 1, "loss": None, "grad_norm": None, "lr": 0.1}]


def test_a_continued_run_forgets_steps_it_will_do_again(tmp_path):
    metrics = MetricLog(tmp_path, 0)
    for step in (1, 2, 3):
        metrics.write(step, {"loss": step})
    metrics.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    metrics = MetricLog(tmp_path, 2)
    metrics.write(3, {"loss": -3})
    metrics.close()
    assert [(x["step"], x["loss"]) for x in lines(tmp_path)] == [
        (1, 1),
        (2, 2),
        (3, -3),
    ]


def test_a_line_cut_inside_earlier_steps_goes_too(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2')
    MetricLog(tmp_path, 5).close()
    assert lines(tmp_path) == [{"step": 1}]


def test_the_other_processes_write_nothing(tmp_path):
    metrics = MetricLog(tmp_path, 0, quiet=True)
    metrics.write(1, {"loss": 2.5})
    metrics.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_events_where_installed(tmp_path):
    pytest.importorskip("tensorboardX")
    metrics = MetricLog(tmp_path, 0)
    metrics.write(1, {"loss": 2.5, "eval/APs": None})
    metrics.close()
    assert any((tmp_path / "tensorboard").iterdir())


def events(folder):
    """Each event has its length (8 bytes), a checksum (4), itself, and a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for file in sorted(folder.iterdir()):
        content, place = file.read_bytes(), 0
        while place < len(content):
            size = int.from_bytes(content[place : place + 8], "little")
            yield Event.FromString(content[place + 12 : place + 12 + size])
            place += size + 16


def shown(folder):
    """{tag: [(step, value)]} as TensorBoard shows the files of a folder.

    A session's start hides what came before it, from its step on.
    """
    from tensorboardX.proto.event_pb2 import SessionLog

    found = {}
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            for tag, points in found.items():
                found[tag] = [x for x in points if x[0] < event.step]
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


@pytest.mark.parametrize("resumed", [0, 2])
def test_tensorboard_forgets_steps_that_are_done_again(tmp_path, resumed):
    pytest.importorskip("tensorboardX")
    for begin, sign in ((0, 1), (resumed, -1)):
        metrics = MetricLog(tmp_path, begin)
        for step in range(begin + 1, 5):
            metrics.write(step, {"loss": sign * step})
        metrics.close()
    expected = [(step, step if step <= resumed else -step) for step in range(1, 5)]
    assert shown(tmp_path / "tensorboard") == {"loss": expected}
    assert [(x["step"], x["loss"]) for x in lines(tmp_path)] == expected


def test_tensorboard_gets_them_no_wider_than_needed(tmp_path):
    pytest.importorskip("tensorboardX")
    metrics = MetricLog(tmp_path, 0)
    assert metrics.shows_pictures
    metrics.picture(4, "val/1", np.zeros((100, 2 * log.WIDEST, 3), np.uint8))
    metrics.close()
    found = [
        (event.step, value.tag, value.image.width, value.image.height)
        for event in events(tmp_path / "tensorboard")
        for value in event.summary.value
    ]
    assert found == [(4, "val/1", log.WIDEST, 50)]


def test_without_tensorboard_nobody_looks(tmp_path):
    metrics = MetricLog(tmp_path, 0, quiet=True)
    assert not metrics.shows_pictures
    metrics.picture(4, "val/1", np.zeros((8, 8, 3), np.uint8))
    metrics.close()
    assert list(tmp_path.iterdir()) == []


VALUES = {
    "loss": 1.23456,
    **dict.fromkeys(log.SHOWN, 0.25),
    "epoch": 0.5,
    "lr": 0.02,
    "images_per_s": 12.34,
    "data_wait": 0.07,
}


def test_the_progress_line_holds_everything():
    line = progress_line(7, 120, VALUES, seconds_left=65)
    assert line == (
        "step   7/120  epoch 0.50  loss 1.2346 (rpn_cls 0.250 rpn_box 0.250 cls 0.250"
        " box 0.250)  lr 2.00e-02  12.3 img/s  data wait 7%  eta 1m05s"
    )


def test_the_progress_line_says_where_to_read_about_slow_data():
    told = {
        wait: progress_line(7, 120, {**VALUES, "data_wait": wait}, seconds_left=65)
        for wait in (0.1, 0.35)
    }
    assert "data wait 10%  eta" in told[0.1]
    assert "data wait 35% (slow data, see docs/own_data.md)  eta" in told[0.35]


def test_the_progress_line_shows_a_loss_scale():
    scale = {"loss_scale": 32768.0, "skipped_steps": 3.0}
    line = progress_line(7, 120, {**VALUES, **scale}, seconds_left=65)
    assert "lr 2.00e-02  loss scale 32768 (skipped 3)  12.3 img/s" in line


def test_the_clock_counts_since_its_last_reset():
    clock = Clock()
    clock.count(8, idle=0.0)
    clock.count(8, idle=1e6)  # more than has passed: no more than all of it
    report = clock.report()
    assert report["images_per_s"] > 0 and report["data_wait"] == 1.0
    clock.reset()
    clock.count(0, idle=0.0)
    report = clock.report()
    assert report.pop("host_s") < 1
    assert report == dict.fromkeys(
        ("images_per_s", "data_wait", "data_s", "device_s"), 0
    )


def test_the_time_of_a_step_is_split_in_three():
    clock = Clock()
    for _ in range(2):
        clock.count(8, 0.0, data=0.25, device=0.5)
    time.sleep(0.01)
    report = clock.report()
    assert (report["data_s"], report["device_s"], report["host_s"]) == (0.25, 0.5, 0.0)
    clock.reset()
    clock.count(8, 0.0)
    time.sleep(0.01)
    assert clock.report()["host_s"] >= 0.01
