"""The scripts as a user types them: real processes, drawn images, a few steps."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from PIL import Image
from pycocotools.coco import COCO

from frcnn_jax import build, runs
from frcnn_jax.convert import files
from frcnn_jax.data import transforms, video
from frcnn_jax.evaluation import analysis, coco
from frcnn_jax.training import distributed, optimizer, step
from frcnn_jax.training.checkpoint import Checkpoints
from frcnn_jax.training.state import create

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "data.short_sides": (64,),
    "data.max_side": 96,
    "data.eval_short_side": 64,
    "data.threads": 2,
    "data.prefetch": 2,
    "model.backbone.width": 8,
    "model.backbone.stages": ("c2", "c3"),
    "model.fpn.channels": 16,
    "model.fpn.levels": 3,
    "model.rpn.channels": 16,
    "model.rpn.anchor_sizes": ((8.0,), (16.0,), (32.0,)),
    "model.rpn.pre_nms_train": 60,
    "model.rpn.post_nms_train": 30,
    "model.rpn.pre_nms_test": 60,
    "model.rpn.post_nms_test": 30,
    "model.roi.fc": (32, 32),
    "model.roi.samples": 32,
    "model.roi.finest_scale": 14.0,
    "model.roi.max_detections": 20,
    "train.steps": 8,
    "train.warmup_steps": 0,
    "train.milestones": (),  # part of the program: with them, each length compiles anew
    "train.log_every": 1,
    "train.checkpoint_every": 2,
    "train.eval_every": 0.0,
}
DEMO = ["--config=configs/demo.py", *(f"--config.{k}={v}" for k, v in TINY.items())]
FIGURES = {"metric", *coco.PRECISIONS, *coco.RECALLS, "step", "per_class"}


def command(*words) -> dict:
    """Arguments for a process that runs one of the scripts."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
    env = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # these programs run a few times only
    }
    return {"args": [sys.executable, *map(str, words)], "cwd": ROOT, "env": env}


def run(*words, code=0) -> subprocess.CompletedProcess:
    done = subprocess.run(
        **command(*words), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def train(workdir, root, *words, code=0):
    asked = ["train.py", *DEMO, f"--config.data.root={root}", f"--workdir={workdir}"]
    return run(*asked, *words, code=code)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    run("tools/make_shapes.py", "--out", folder, "--train=24", "--val=8", "--seed=0")
    return folder


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """(folder of a finished run, what train.py printed)."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    return workdir, train(workdir, root).stdout


def metrics(workdir) -> list[dict]:
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def scores(path) -> dict:
    """eval.json, checked to be complete."""
    found = json.loads(path.read_text())
    assert set(found) == FIGURES
    assert set(found["per_class"]) == {"circle", "square", "triangle", "star", "ring"}
    return found


# ---- training


def test_training_says_and_leaves_what_it_should(trained):
    workdir, printed = trained
    assert "train: 24 images" in printed and "val: 8 images" in printed
    assert printed.count("step 8/8") == 1 and "img/s" in printed
    assert "AP50" in printed and f"finished 8 steps in {workdir}" in printed
    assert re.search(rf"best: step 8 of AP 0\.\d+, in {workdir / 'best'}\n", printed)
    assert f"predict.py --workdir={workdir} --checkpoint=best PICTURES" in printed
    started_with = json.loads((workdir / "config.json").read_text())["config_file"]
    assert started_with["name"] == "demo.py"
    assert "unreadable" not in printed
    (warning,) = [x for x in printed.splitlines() if x.startswith("warning")]
    assert "of the objects have no anchor of IoU 0.5" in warning  # so narrow is it
    assert "learning rate 0.02;" in printed  # as it stands: 8 images of 8
    lines = metrics(workdir)
    assert [x["step"] for x in lines] == [1, 2, 3, 4, 5, 6, 7, 8, 8]
    for line in lines[1:8]:
        assert line["images_per_s"] > 0 and 0 <= line["data_wait"] <= 1
        assert np.isfinite(line["loss"])
    assert {"eval/AP", "eval/AP50", "eval/AR100"} <= set(lines[-1])
    assert scores(workdir / "eval.json")["step"] == 8
    table = (workdir / "metrics.csv").read_text().splitlines()
    assert [x.split(",")[0] for x in table] == ["step", *"123456788"]
    if find_spec("tensorboardX"):
        (events,) = (workdir / "tensorboard").iterdir()
        assert events.read_bytes().count(b"\x89PNG") == 4
    assert f"report: {workdir / 'report.html'}" in printed
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert "checkpoint of step 8" in page and "without evaluation" not in page
    assert "fields that differ from demo.py" in page
    kept = {p.name for p in (workdir / "checkpoints").iterdir() if p.is_dir()}
    assert kept == {"6", "8"}


def test_a_finished_run_stays_as_it_is(trained, root):
    workdir, _ = trained
    names = ("metrics.jsonl", "report.html")
    before = [(workdir / name).read_text(encoding="utf-8") for name in names]
    printed = train(workdir, root).stdout
    assert "step 8/8" not in printed and "finished 8 steps" in printed
    assert [(workdir / n).read_text(encoding="utf-8") for n in names] == before


def final_state(workdir):
    """The newest checkpoint, optimiser included."""
    run, _ = runs.load_run(workdir)
    tx = optimizer.make(run.train, lambda step: 0.1)
    state = create(build.fresh_variables(run), tx, run.train.freeze)
    with Checkpoints(workdir, keep=2) as saved:
        return saved.restore(distributed.replicate(state, distributed.make_mesh(1)))


def test_a_killed_run_continues_to_the_same_bits(trained, root, tmp_path):
    whole, _ = trained
    workdir = tmp_path / "killed"
    words = ["train.py", *DEMO, f"--config.data.root={root}", f"--workdir={workdir}"]
    with open(tmp_path / "printed", "w") as printed:
        process = subprocess.Popen(
            **command(*words), stdout=printed, stderr=subprocess.STDOUT
        )
        while not (workdir / "checkpoints" / "2").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        code = process.wait()
    assert code == -signal.SIGKILL, (tmp_path / "printed").read_text()
    assert not (workdir / "eval.json").exists()
    # Told to stop before its first step, it takes that one and saves it.
    process = subprocess.Popen(**command(*words), stdout=subprocess.PIPE, text=True)
    lines = iter(process.stdout.readline, "")
    continued = next(x for x in lines if x.startswith(f"continuing {workdir} at step"))
    process.send_signal(signal.SIGTERM)
    told = process.communicate()[0]
    assert process.returncode == 143 and "SIGTERM: saving, then leaving" in told
    saved = int(continued.split()[4]) + 1
    assert (workdir / "checkpoints" / str(saved)).exists()
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert "without evaluation" in page and f"report: {workdir}" in told
    assert f"continuing {workdir} at step {saved} of" in train(workdir, root).stdout
    ours, theirs = final_state(workdir), final_state(whole)
    assert ours.step == theirs.step == 8
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    losses = [
        [(x["step"], x.get("loss")) for x in metrics(w)] for w in (workdir, whole)
    ]
    assert losses[0] == losses[1]
    assert scores(workdir / "eval.json") == scores(whole / "eval.json")


def takes_signals(process) -> bool:
    """Whether SIGTERM has a handler."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def said_while(process, sends, number) -> str:
    """What a process says that gets a signal once `sends` is true of a line."""
    lines = []
    for line in iter(process.stdout.readline, ""):
        lines.append(line)
        if sends(line):
            process.send_signal(number)
            break
    return "".join(lines) + process.communicate(timeout=120)[0]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_a_signal_while_the_program_loads(root, tmp_path, number, code):
    workdir = tmp_path / "run"
    words = ["train.py", *DEMO, f"--config.data.root={root}", f"--workdir={workdir}"]
    process = subprocess.Popen(
        **command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not takes_signals(process):
        time.sleep(0.001)
    process.send_signal(number)
    out, told = process.communicate(timeout=120)
    assert (process.returncode, out) == (code, "")
    assert told.startswith(f"{number.name}: leaving at once, nothing is being saved")
    assert "Traceback" not in told and not workdir.exists()


@pytest.mark.parametrize("line", ["train: 24 images", "please wait"])
def test_a_signal_while_training_starts(root, tmp_path, line):
    """While data are read nothing is there to save, while compiling the first step."""
    workdir = tmp_path / "run"
    words = ["train.py", *DEMO, f"--config.data.root={root}", f"--workdir={workdir}"]
    process = subprocess.Popen(
        **command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = said_while(process, lambda x: line in x, signal.SIGINT)
    assert process.returncode == 130 and "Traceback" not in said, said
    saves = "SIGINT: saving, then leaving" in said
    assert saves != ("SIGINT: leaving at once, nothing is being saved" in said)
    assert saves or line == "train: 24 images"  # reading so few may be over
    kept = {p.name for p in workdir.glob("checkpoints/*")}
    assert kept == ({"1"} if saves else set())


# ---- scoring


def test_eval_scores_a_folder_and_draws(trained, tmp_path):
    workdir, _ = trained
    out = tmp_path / "scored"
    words = ("eval.py", f"--workdir={workdir}", "--pictures", "--report")
    printed = run(*words, f"--out={out}").stdout
    assert f"{workdir} at step 8 on val" in printed and "AP50" in printed
    assert scores(out / "eval.json") == scores(workdir / "eval.json")
    pictures = sorted(p.name for p in (out / "pictures").iterdir())
    assert pictures == ["sheet.jpg", *(f"val_{i:04d}.jpg" for i in range(8))]
    for name in pictures:
        with Image.open(out / "pictures" / name) as picture:
            picture.load()
    results = json.loads((out / "results.json").read_text())
    per_class = scores(out / "eval.json")["per_class"].values()
    assert len(results) == sum(row["detections"] for row in per_class)
    assert re.search(r"^localisation +\d+ +\d\.\d{3}$", printed, re.M)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "fields that differ from demo.py" in page  # as the run's folder knows
    assert '<th scope="col">train</th><th scope="col">val</th>' in page
    totals = json.loads((out / "analysis.json").read_text())["totals"]
    assert totals["AP50"] == pytest.approx(scores(out / "eval.json")["AP50"])
    assert all((out / name).exists() for name in analysis.FILES)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"<h1>{workdir.name} at step 8 on val</h1>" in page
    assert 'id="errors"' in page and 'id="training"' in page
    drawn = {p.name for p in out.glob("report_*.png")}
    parts = ("errors", "precision_recall", "training")
    assert drawn == {f"report_{part}.png" for part in parts}


def test_fields_on_the_command_line_win_over_the_folders(trained, tmp_path):
    words = [
        f"--workdir={trained[0]}",
        f"--out={tmp_path}",
        "--config.eval.split=train",
    ]
    assert "at step 8 on train" in run("eval.py", *words).stdout


def test_a_weights_file_scores_as_its_checkpoint(trained, root, tmp_path):
    workdir, _ = trained
    flat = traverse_util.flatten_dict(final_state(workdir).variables, sep="/")
    weights = tmp_path / "weights.safetensors"
    files.save(weights, {k: np.asarray(v) for k, v in flat.items()}, {})
    words = [*DEMO, f"--config.data.root={root}", f"--weights={weights}"]
    printed = run("eval.py", *words, f"--out={tmp_path}").stdout
    assert f"loaded {len(flat)} arrays" in printed
    found = scores(tmp_path / "eval.json")
    assert found.pop("step") is None
    expected = scores(workdir / "eval.json")
    assert found == {k: v for k, v in expected.items() if k != "step"}


# ---- prediction


def test_predict_draws_every_picture_of_a_folder(trained, root, tmp_path):
    out = tmp_path / "predictions"
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(8):
        shutil.copy(root / "images" / f"val_{i:04d}.jpg", folder)
    words = [f"--workdir={trained[0]}", folder, f"--out={out}", "--score=0.1"]
    printed = run("predict.py", *words).stdout
    for i in range(8):
        assert printed.count(f"val_{i:04d}.jpg: ") == 1
        with (
            Image.open(out / f"val_{i:04d}.jpg") as drawn,
            Image.open(folder / f"val_{i:04d}.jpg") as original,
        ):
            drawn.load()
            assert drawn.size == original.size
    entries = json.loads((out / "predictions.json").read_text())
    assert {e["file_name"] for e in entries} <= {str(p) for p in folder.iterdir()}
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i} for i in range(8)],
        "categories": [{"id": i} for i in range(1, 6)],
        "annotations": [],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(out / "predictions.json"))
    assert len(loaded.anns) == len(entries) > 0


def test_predict_reads_patterns_and_lists_and_writes_every_kind(
    trained, root, tmp_path
):
    broken, listed = tmp_path / "notes.jpg", root / "images" / "val_0001.jpg"
    broken.write_text("no picture")
    pattern, out = root / "images" / "val_000[2-4].jpg", tmp_path / "out"
    words = ["predict.py", f"--workdir={trained[0]}", f"--out={out}", "--score=0.1"]
    words += ["--save=csv,yolo,coco,pictures", "--classes=square,star", pattern, "-"]
    words += ["--tta", "--tile=150", "--overlap=0.3"]
    done = subprocess.run(
        **command(*words),
        input=f"{listed}\n{broken}\n",
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith(f"skipped: {broken}: not an image") for line in lines)
    assert lines[-3] == "1 of 5 files could not be read"
    assert re.match(r"4 pictures, \d+ detections, [\d.]+ img/s, \d+% of the", lines[-1])
    names = {f"val_000{i}" for i in (1, 2, 3, 4)}
    assert {p.stem for p in out.glob("*.jpg")} == names
    assert {p.stem for p in (out / "yolo").iterdir()} == names
    rows = (out / "predictions.csv").read_text().splitlines()[1:]
    assert {row.split(",")[2] for row in rows} <= {"square", "star"}
    assert f", {len(rows)} detections, " in lines[-1]
    results = COCO(out / "images.json").loadRes(str(out / "predictions.json"))
    assert {a["category_id"] for a in results.anns.values()} <= {2, 4}


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_predict_looks_at_videos(trained, root, tmp_path):
    (tmp_path / "bad.mp4").write_text("no video")
    still, clip, out = root / "images" / "val_0001.jpg", tmp_path / "a.mp4", "out"
    frame = transforms.decode(still)
    made = video.Writer(clip, frame.shape[:2], Fraction(5))
    for _ in range(5):
        made.write(frame)
    made.close()
    words = [f"--workdir={trained[0]}", f"--out={tmp_path / out}", "--score=0.05"]
    words += ["--save=csv,yolo,coco,pictures", "--every=2", still, clip]
    printed = run("predict.py", *words, tmp_path / "bad.mp4").stdout
    for line in (f"{clip} frame 0/5: ", f"{clip} frame 4/5: ", f"{still}: "):
        assert printed.count(line) == 1
    assert f"skipped: {tmp_path / 'bad.mp4'}: " in printed
    assert "4 pictures, " in printed and "1 of 3 files could not be read" in printed
    kept = video.probe(tmp_path / out / "a.mp4")
    assert (kept.count, float(kept.rate)) == (3, 2.5)
    names = {f"a_{n:06d}.txt" for n in (0, 2, 4)} | {"val_0001.txt"}
    assert {p.name for p in (tmp_path / out / "yolo").iterdir()} == names
    images = json.loads((tmp_path / out / "images.json").read_text())["images"]
    assert [i.get("frame") for i in images] == [None, 0, 2, 4]
    assert len({i["id"] for i in images}) == 4
    rows = (tmp_path / out / "predictions.csv").read_text().splitlines()[1:]
    assert {row.split(",")[1] for row in rows} <= {"", "0", "2", "4"}


# ---- what cannot work


def spoiled(root, folder, *, missing=(), broken=()) -> Path:
    """A copy of the data with some images missing or broken."""
    shutil.copytree(root, folder)
    for name in missing:
        (folder / "images" / name).unlink()
    for name in broken:
        (folder / "images" / name).write_bytes(b"<!DOCTYPE html>")
    return folder


TRAIN_FAULTS = {
    "--config.data.root=nowhere": "data.root: there is no folder nowhere",
    "--config.data.train=trian": "annotations/train.json, annotations/val.json",
    "--config.data.classes=cirle": "'cirle' is not in .*did you mean 'circle'",
    "--config.model.num_classes=7": "num_classes is 7, but train has 5 classes",
    "--config.init.load=weights.safetensors": "weights.safetensors does not exist",
    "--config.model.roi.box_loss=ciou2": "did you mean 'ciou'",
    "--config.train.lrr=1": "did you mean --config.train.lr",
    "--config.train.epochs=abc": "--config.train.epochs=abc: could not convert string",
}


def assert_plain(done, message):
    """One line on stderr, no traceback."""
    __tracebackhide__ = True
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert re.search(message, lines[0]), lines[0]


@pytest.mark.parametrize(("word", "message"), TRAIN_FAULTS.items())
def test_wrong_settings_of_training(root, tmp_path, word, message):
    done = train(tmp_path / "run", root, word, code=1)
    assert_plain(done, message)


def test_a_folder_with_other_settings_is_not_continued(trained, root):
    done = train(trained[0], root, "--config.seed=1", code=1)
    assert_plain(done, r"holds a run with other settings \(seed\)")
    assert "changed since this run began: seed 0 -> 1" in done.stdout


def test_a_folder_that_cannot_be_written_is_told_before_data_are_read(root, tmp_path):
    """Permissions bind the administrator only without some of its powers."""
    setpriv, folder = shutil.which("setpriv"), tmp_path / "mine"
    if not os.geteuid() and not setpriv:
        pytest.skip("permissions do not bind this user, and there is no setpriv")
    folder.mkdir(mode=0o500)
    asked = command("train.py", *DEMO, f"--config.data.root={root}")
    bound = [setpriv, "--bounding-set=-dac_override,-dac_read_search"]
    asked["args"] = (not os.geteuid()) * bound + asked["args"]
    for workdir in (folder, folder / "run"):
        words = [*asked["args"], f"--workdir={workdir}"]
        done = subprocess.run(
            **{**asked, "args": words}, capture_output=True, text=True, timeout=600
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert_plain(done, f"{workdir} cannot be written .Permission.*allow writing")


def test_missing_images_stop_or_are_counted(root, tmp_path):
    folder = spoiled(root, tmp_path / "data", missing=["train_0003.jpg"])
    done = train(tmp_path / "run", folder, code=1)
    first, place = done.stderr.splitlines()
    assert first.startswith("error: image files missing: 1 (add them, or set data.on_b")
    assert place.endswith("annotations/train.json, image 4: train_0003.jpg")


def test_unreadable_images_stop_by_name_or_are_counted(root, tmp_path):
    names = [*(f"train_{i:04d}.jpg" for i in range(8)), "val_0001.jpg"]
    folder = spoiled(root, tmp_path / "data", broken=names)
    done = train(tmp_path / "run", folder, code=1)
    assert_plain(done, r"train_000\d.jpg: not an image .*on_bad_image")
    words = ("--config.data.on_bad_image=skip", "--config.train.steps=2")
    done = train(tmp_path / "run2", folder, *words)
    assert "skipped: " in done.stderr and "train_000" in done.stderr
    assert "train images: " in done.stdout and "unreadable" in done.stdout
    assert "val images: 1 unreadable" in done.stdout


def test_wrong_words_of_prediction(trained, root, tmp_path):
    out = f"--out={tmp_path}"
    done = run("predict.py", f"--workdir={trained[0]}", out, code=1)
    assert_plain(done, "name one or more images or folders")
    picture = root / "images" / "val_001.jpg"
    done = run("predict.py", f"--workdir={trained[0]}", out, picture, code=1)
    assert_plain(done, r"val_001.jpg does not exist; did you mean .*val_0\d01.jpg\?")


def test_a_folder_of_predictions_that_cannot_be_written(root, tmp_path):
    (tmp_path / "out").touch()
    words = ["--workdir=nowhere", root / "images", f"--out={tmp_path / 'out'}"]
    done = run("predict.py", *words, code=1)
    assert_plain(done, "out cannot be written .* or choose another --out$")


def test_nothing_that_can_be_read(trained, tmp_path):
    (tmp_path / "a.jpg").write_text("no picture")
    words = [f"--workdir={trained[0]}", tmp_path, f"--out={tmp_path / 'out'}"]
    done = run("predict.py", *words, code=1)
    assert_plain(done, "none of 1 files could be read")
    assert f"skipped: {tmp_path / 'a.jpg'}: not an image" in done.stdout


def test_an_unknown_class_of_prediction(trained, root, tmp_path):
    """It is told before weights are looked for, of which there are none."""
    shutil.copy(trained[0] / "config.json", tmp_path)
    words = [f"--workdir={tmp_path}", root / "images", f"--out={tmp_path / 'out'}"]
    done = run("predict.py", *words, "--classes=star,cirle", code=1)
    assert_plain(done, "'cirle' is none of the 5 .*; did you mean 'circle'")
    done = run("predict.py", *words, "--tile=20", code=1)
    assert_plain(done, "tile=20: tiles have 32 pixels or more")


def test_wrong_words_of_scoring(tmp_path):
    assert_plain(run("eval.py", code=1), "name a --workdir, or both --config and --wei")
    done = run("eval.py", f"--workdir={tmp_path}", code=1)
    assert_plain(done, "config.json does not exist: .* is not the folder of a run")


# ---- learning


def test_four_images_are_learned_by_heart(tiny_run):
    run, tiny_run.data.flip = tiny_run, 0.0
    run.model.fpn.channels = run.model.rpn.channels = 32
    run.model.roi.fc, run.train.freeze, run.train.steps = (128, 128), (), 200
    run.train.batch_size = run.train.lr_batch_size = run.eval.batch_size = 4
    run.train.clip_norm, run.train.milestones = 10.0, ()
    run, data, _ = build.datasets(run)
    data = four_wide(data)
    mesh = distributed.make_mesh(1)
    batches = build.train_batches(run, data, 0)
    plan = build.plan(run, batches.schedule)
    state, tx = build.training_state(run, mesh, plan, load=True)
    take = step.make_train_step(build.detector(run.model), tx, (), mesh)
    # Two hundred steps pay for compiling with optimisation.
    options = {"xla_backend_optimization_level": 1}
    take = jax.jit(take, compiler_options=options, donate_argnums=0)
    for _ in range(plan.total):
        batch = distributed.to_batch(next(batches), mesh)
        state, _ = take(state, batch, jax.random.key(0))
    batches.close()
    evaluator = build.Evaluator(run, data, mesh)
    found = evaluator.metrics(evaluator.results(state.variables))
    assert found["AP50"] > 0.9, found


def four_wide(data):
    """Four wide images with up to four shapes, and their truth."""
    chosen = [r for r in data.records if r.width > r.height and 0 < len(r.labels) < 5]
    kept = {r.source_id for r in chosen[:4]}
    assert len(kept) == 4
    truth = dict(data.annotations)
    truth["images"] = [i for i in truth["images"] if i["id"] in kept]
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in kept]
    return dataclasses.replace(data, records=tuple(chosen[:4]), annotations=truth)
