"""The report of a run: all sections, nothing from outside, and a browser reads it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from frcnn_jax import config
from frcnn_jax.data.records import Dataset, Record
from frcnn_jax.evaluation import analysis, score
from frcnn_jax.report import figures, material, page, tables
from frcnn_jax.report.write import FILE, write

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
HOSTILE = "<script>alert(1)</script>"
VOID = {"meta", "img", "br"}
SECTIONS = (
    "scores errors classes precision-and-recall sizes confusion calibration"
    " worst-images training data settings versions-and-hardware"
).split()


class Reader(HTMLParser):
    """Fails at tags that do not close each other; collects addresses and ids."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.ids, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href")]
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(text):
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


@pytest.fixture
def data(tmp_path, rng):
    """Three images, the last of which is no picture; a class with a hostile name."""
    names = (HOSTILE, "good", "middling")
    records, entries = [], []
    for k, name in enumerate(("a&b.png", "<i>.png", "broken.png")):
        path = tmp_path / name
        pixels = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        boxes = np.array([[5, 5, 25, 25], [30, 30, 60, 50], [0, 40, 20, 60]], "f4")
        labels = np.array([1, 2, 3], np.int32)
        records.append(Record(path, k, 80, 60, boxes, labels, np.zeros(3, bool)))
        for box, label in zip(boxes.tolist(), labels.tolist(), strict=True):
            x, y, x2, y2 = box
            bbox = [x, y, x2 - x, y2 - y]
            entries.append({"image_id": k, "category_id": label, "bbox": bbox})
    (tmp_path / "broken.png").write_bytes(b"nothing")
    annotations = {
        "images": [{"id": k, "file_name": r.path.name} for k, r in enumerate(records)],
        "categories": [{"id": k, "name": n} for k, n in enumerate(names, 1)],
        "annotations": [{"id": k, **e} for k, e in enumerate(entries, 1)],
    }
    return Dataset("val", tuple(records), names, (1, 2, 3), annotations, {"odd": 2})


@pytest.fixture
def workdir(tmp_path):
    """A folder with the log of a training; its last line was cut by a kill."""
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [{"step": k, "loss": 1 / k, "lr": 0.1, "loss_cls": None} for k in (1, 2, 3)]
    lines.append({"step": 3, "eval/AP": 0.25, "eval/AP50": 0.5})
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "metrics.jsonl").write_text(text + '\n{"step": 4, "lo')
    (folder / "config.json").write_text(json.dumps({"jax": "0.0.1"}))
    return folder


def evaluated(data, workdir):
    """`good` is found everywhere, `middling` once, the hostile one taken for good."""
    run = config.Run()
    run.seed = 7
    results = [
        {"image_id": k, "category_id": c, "bbox": box, "score": s}
        for k in range(3)
        for c, box, s in ((2, [30, 30, 30, 20], 0.9), (2, [5, 5, 20, 20], 0.8))
    ]
    results.append(results[0] | {"category_id": 3, "bbox": [0, 40, 20, 20]})
    metrics = score.evaluate(run.eval, data.annotations, results, 100)
    found = analysis.evaluate(data.annotations, results)
    told = material.of_run("a <run>", run, material.base(None), [data], workdir)
    shots = material.shots(data, results, run, 0.5)
    return told._replace(metrics={"step": 9} | metrics, found=found, shots=shots)


def test_the_page_stands_alone_and_has_every_section(data, workdir):
    text = page.html(evaluated(data, workdir))
    reader = read(text)
    counted = "9 objects: 4 found, 2 missed, 3 met by false detections only; 3 false"
    assert counted in text
    assert [name for name in reader.ids if name != "missing"] == SECTIONS
    assert reader.tags.count("script") == 1 and "link" not in reader.tags
    assert all(a.startswith(("data:image/jpeg", "#")) for a in reader.addresses)
    assert "http" not in text and str(workdir) not in text
    assert HOSTILE not in text and "&lt;script&gt;" in text
    assert "a &lt;run&gt;" in text and "a&amp;b.png" in text and "<i>.png" not in text
    assert "The image cannot be read." in text and text.count("<img") == 2
    assert "1 fields that differ from the defaults" in text
    assert "0.0.1" in text  # the version of the training
    assert re.search(r"<td>odd</td><td>2</td>", text)
    assert "without evaluation" not in text


def test_a_run_without_evaluation_says_so_in_one_line(data, tmp_path):
    run = config.Run()
    told = material.of_run("r", run, material.base(("c.py", run)), [data], tmp_path)
    text = page.html(told)
    assert text.count("a report for a run without evaluation") == 1
    assert "No metrics.jsonl" in text and "All fields are as in c.py." in text
    assert set(read(text).ids) == {"missing", *SECTIONS[8:]}
    assert write(told, tmp_path / "new") == [FILE]


def test_figures_without_predictions_are_told(data, workdir):
    told = evaluated(data, workdir)._replace(found=None, shots=())
    reader = read(page.html(told))
    assert {"missing", "scores", "classes"} <= set(reader.ids)
    assert not {"errors", "confusion"} & set(reader.ids)


def test_no_objects_and_no_detections(data, workdir):
    annotations = data.annotations | {"annotations": []}
    told = evaluated(data, workdir)
    metrics = score.evaluate(told.run.eval, annotations, [], 100)
    found = analysis.evaluate(annotations, [])
    told = told._replace(metrics=metrics, found=found, shots=(), data=[])
    text = page.html(told)
    read(text)
    assert "no curve" in text and "n/a" in text


def test_many_classes_have_pairs_and_faint_curves(workdir, data):
    told = evaluated(data, workdir)
    count = 40
    names = [f"class {k}" for k in range(count)] + ["background"]
    matrix = np.zeros((count + 1, count + 1), int)
    matrix[3, 5], matrix[count, 4] = 7, 99
    curve = told.found["curves"]["0.5"]["good"]
    drawn = {"recall": told.found["curves"]["recall"]}
    drawn["0.5"] = dict.fromkeys(names[:-1], curve)
    found = told.found | {
        "confusion": {"names": names, "matrix": matrix.tolist()},
        "curves": drawn,
    }
    text = page.html(told._replace(found=found))
    assert '<table class="matrix">' not in text
    assert "<td>class 3</td><td>class 5</td><td>7</td>" in text
    (chart,) = figures.precision_recall(found)
    assert [x.name for x in chart.lines if x.listed] == ["mean of 40 classes"]


def test_long_logs_are_thinned_and_keep_their_ends():
    history = [{"step": k, "loss": 1.0} for k in range(1, 100_001)]
    (chart,) = figures.training(history)
    (line,) = chart.lines
    assert len(line.x) <= figures.POINTS + 1
    assert (line.x[0], line.x[-1]) == (1, 100_000)


def test_pictures_of_the_charts_are_written(data, workdir, tmp_path):
    out = tmp_path / "out"
    names = write(evaluated(data, workdir), out)
    assert sorted(names) == sorted(p.name for p in out.iterdir())
    assert len(names) == 4 and names[0] == FILE
    for name in names[1:]:
        with Image.open(out / name) as picture:
            assert picture.format == "PNG" and len(np.unique(picture)) > 3


def test_tables_sort_by_values_not_by_what_is_shown():
    text = tables.sortable(("a<b", "n"), [("x&y", 1234.5678), ("z", None)], "n")
    assert 'data-v="1234.5678"' in text and 'data-v=""' in text and "n/a" in text
    assert "a&lt;b" in text and "x&amp;y" in text and text.count("data-first") == 1


@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome here")
def test_a_browser_runs_the_script_without_errors(data, workdir, tmp_path):
    told = evaluated(data, workdir)
    write(told, tmp_path / "out")
    place = tmp_path / "copied.html"
    shutil.move(tmp_path / "out" / FILE, place)
    # Clicks the head of the names, and waits for nothing: the page's script is done.
    click = "<script>document.querySelector('.sort th button').click()</script>"
    clicked = tmp_path / "clicked.html"
    clicked.write_text(place.read_text().replace("</body>", click + "</body>"))
    ranks = ["good", "middling", HOSTILE.replace("<", "&lt;").replace(">", "&gt;")]
    for file, kind, order in (
        (place, "descending", ranks),
        (clicked, "ascending", [ranks[2], *ranks[:2]]),
    ):
        dom = browse(file, tmp_path / "profile")
        assert set(SECTIONS) <= set(read(dom).ids)
        assert dom.count("aria-sort=") == 1 + len(re.findall(r"\[aria-sort=", dom))
        assert f'aria-sort="{kind}"' in dom
        table = re.search(r'<table class="sort">.*?</table>', dom, re.S)[0]
        assert re.findall(r"<tr><td[^>]*>(.*?)</td>", table) == order


def browse(file, profile):
    """The page as the browser has it after its scripts; fails at what they log."""
    off = "gpu quic background-networking component-update sync dev-shm-usage"
    done = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--no-first-run"),
            *(f"--disable-{name}" for name in off.split()),
            *(f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0"),
            *("--dump-dom", file.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout
