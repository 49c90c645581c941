import csv

from frcnn_jax.training.log import MetricLog
from frcnn_jax.training.table import Table


def rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_a_new_name_is_a_new_last_column(tmp_path):
    path = tmp_path / "a.csv"
    table = Table(path, [])
    assert path.read_bytes() == b""
    table.write({"step": 1, "loss": 0.1})
    assert rows(path) == [["step", "loss"], ["1", "0.1"]]  # at once
    table.write({"step": 1, "AP": None, 'AP/a, "b"': 1e-20})
    table.write({"loss": 3, "step": 2})
    table.close()
    assert rows(path) == [
        ["step", "loss", "AP", 'AP/a, "b"'],
        ["1", "0.1", "", ""],
        ["1", "", "", "1e-20"],
        ["2", "3", "", ""],
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]


def test_the_table_is_that_of_the_lines_however_often_it_is_made(tmp_path):
    log = MetricLog(tmp_path, 0)
    log.write(1, {"loss": 2.5})
    log.write(1, {"eval/AP": float("nan"), "eval/AP50": 0.25})
    log.write(2, {"loss": 1.5, "lr": 0.02})
    log.close()
    before = (tmp_path / "metrics.csv").read_bytes()
    assert before == (
        b"step,loss,eval/AP,eval/AP50,lr\n1,2.5,,,\n1,,,0.25,\n2,1.5,,,0.02\n"
    )
    MetricLog(tmp_path, 2).close()
    assert (tmp_path / "metrics.csv").read_bytes() == before
    (tmp_path / "metrics.csv").unlink()  # a run from before there was one
    MetricLog(tmp_path, 2).close()
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_a_continued_run_has_no_row_twice(tmp_path):
    log = MetricLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step, {"loss": step})
    log.close()
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("4,0.")  # killed while writing
    log = MetricLog(tmp_path, 2)
    log.write(3, {"loss": -3})
    log.close()
    assert rows(tmp_path / "metrics.csv") == [
        *(["step", "loss"], ["1", "1"], ["2", "2"], ["3", "-3"]),
    ]
