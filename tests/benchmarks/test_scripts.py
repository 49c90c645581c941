"""Every benchmark runs at a tiny size and keeps its promise: one line, all fields."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import cold_start, workload
from frcnn_jax import config

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
CONFIG = '''"""Two levels of a narrow ResNet-18; the number of classes is left open."""

from configs import demo
from frcnn_jax import config


def get_config() -> config.Run:
    run = demo.get_config()
    model = run.model
    model.backbone.width, model.backbone.stages = 8, ("c2", "c3")
    model.fpn.channels, model.fpn.levels, model.rpn.channels = 16, 2, 16
    model.rpn.anchor_sizes = ((16.0,), (32.0,))
    model.roi.fc, model.roi.samples = (32,), 16
    return run
'''
# Runs a script as `python FILE` does, in a world without these libraries.
WITHOUT = """
import runpy, sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"PIL", "array_record", "cv2", "grain",
                "ml_collections", "orbax", "pycocotools", "safetensors", "tensorflow",
                "tensorflow_datasets", "torch"}:
            raise ModuleNotFoundError(f"{name} is missing on purpose", name=name)

sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
PEER = '''"""Prints a line as a peer's script does, with the words that it was given."""

import argparse, json

parser = argparse.ArgumentParser()
for name in ("mode", "size", "batch", "device", "dtype", "warmup", "repeats", "extra"):
    parser.add_argument(f"--{name}")
print("hello")
print(json.dumps({"lib": "peer", "median_ms": 2.5, **vars(parser.parse_args())}))
'''
EVERY = {"name", "machine", "versions", "commit", "dirty", "date"}
TIMED = EVERY | {
    "config",
    "size",
    "batch",
    "dtype",
    "precision",
    "seed",
    "warmup",
    "repeats",
    "median_ms",
    "min_ms",
    "max_ms",
    "min_cpu_ms",
    "images_per_s",
    "first_call_s",
    "trace_s",
    "lower_s",
    "compile_s",
    "programs",
    "compilation_cache",
    "parameters",
    "peak_rss_mb",
    "device",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The options of a run that takes a second, and an environment with a cache."""
    path = tmp_path_factory.mktemp("benchmarks") / "tiny.py"
    path.write_text(CONFIG)
    return [f"--config={path}", "--size=64x96"]


def run(*command, fails=False):
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(ROOT / ".cache" / "jax")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": cache}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stderr
    return done


def only_line(done):
    lines = done.stdout.splitlines()
    assert len(lines) == 1, lines
    return json.loads(lines[0])


@pytest.mark.parametrize(
    ("script", "own"),
    [
        ("inference", {"detections", "gflops"}),
        ("train_step", {"boxes", "loss", "trainable"}),
    ],
)
def test_a_measurement_is_one_line_without_the_data_libraries(tiny, script, own):
    file = BENCHMARKS / f"{script}.py"
    words = (*tiny, "--batch=2", "--warmup=1", "--repeats=2")
    line = only_line(run("-c", WITHOUT, file, *words))
    assert set(line) == TIMED | own
    assert line["name"] == script and line["config"] == "tiny"
    assert line["size"] == [64, 96] and line["batch"] == 2 and line["repeats"] == 2
    assert 0 < line["min_ms"] <= line["median_ms"] <= line["max_ms"]
    assert line["images_per_s"] == pytest.approx(2e3 / line["median_ms"], rel=1e-3)
    parts = [line[part] for part in ("trace_s", "lower_s", "compile_s")]
    assert line["programs"] == 1 and min(parts) > 0
    assert sum(parts) < line["first_call_s"]
    assert line["device"]["platform"] == "cpu" and line["device"]["memory"] is None
    assert line["peak_rss_mb"] > 100 and line["parameters"] > 10_000
    if script == "inference":
        assert len(line["detections"]) == 2 and min(line["detections"]) > 10
        assert 0.01 < line["gflops"] < 1
    else:
        assert 0 < line["loss"] < 100 and line["trainable"] <= line["parameters"]


def test_compiling_is_timed_cold_and_from_the_cache(tiny, tmp_path):
    words = ("--mode=infer", "--rounds=2", *tiny, f"--save={tmp_path}")
    line = only_line(run(BENCHMARKS / "compile.py", *words))
    assert set(line) == EVERY | {"config", "size", "batch", "dtype"} | {
        "precision",
        "device",
        "infer",
    }
    figures = line["infer"]
    assert figures["programs"] == 1
    assert min(figures["cached_compile_s"], figures["cold_compile_s"]) > 0
    assert len(figures["cold_all_s"]) == len(figures["cached_all_s"]) == 2
    xla = figures["xla"]
    parts = xla["passes_s"], xla["kernels_s"], xla["code_s"]
    assert min(parts) > 0 and sum(parts) < xla["whole_s"] and xla["kernels"] > 50
    stored = (tmp_path / "compile.jsonl").read_text().splitlines()
    assert [json.loads(text) for text in stored] == [line]


def test_exports_are_weighed_started_and_timed(tiny, tmp_path):
    """The form without a compiler."""
    words = [*tiny, "--forms", "onnx", "--repeats=2", f"--save={tmp_path}"]
    line = only_line(run(BENCHMARKS / "export.py", *words))
    assert EVERY < set(line) and line["config"] == "tiny"
    (form,) = line["forms"].values()
    assert 0 < form["min_ms"] <= form["median_ms"] <= form["max_ms"]
    assert form["cold_s"] * 1e3 > form["min_ms"] and form["cached_s"] is None
    assert form["detections"] > 10 and form["mb"] > 0


def test_a_comparison_alternates_and_divides(tiny, tmp_path):
    peer = tmp_path / "peer.py"
    peer.write_text(PEER)
    words = ["--mode=infer", tiny[1], "--rounds=2", "--warmup=1", "--repeats=1"]
    words += [f"--our-args={tiny[0]}", "--peer-args=--extra=7", f"--save={tmp_path}"]
    words += [f"--peer-python={sys.executable}", f"--peer-script={peer}"]
    done = run(BENCHMARKS / "compare.py", *words)
    line = only_line(done)
    assert done.stderr.count("round ") == 2
    assert len(line["ours_ms"]) == 2 and line["peer_ms"] == [2.5, 2.5]
    assert line["ratio"] == pytest.approx(sum(line["ours_ms"]) / 5, abs=1e-3)
    assert line["ours"]["name"] == "inference" and line["ours"]["programs"] == 1
    asked = {"mode": "infer", "size": "64x96", "device": "cpu", "dtype": "fp32"}
    asked |= {"batch": "1", "warmup": "1", "repeats": "1", "extra": "7"}
    assert asked.items() <= line["peer"].items()
    assert str(peer) not in (tmp_path / "compare.jsonl").read_text()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--size=100x96"], "multiples of 32"),
        (["--size=big"], "multiples of 32"),
        (["--config=configs/none.py"], "configs/none.py does not exist"),
        (["--dtype=float64"], "invalid choice"),
    ],
)
def test_impossible_requests_say_what_is_wrong(words, complaint):
    done = run(BENCHMARKS / "inference.py", *words, fails=True)
    assert complaint in done.stderr and not done.stdout


def test_an_even_number_of_calls_has_no_middle(tmp_path):
    peer = tmp_path / "peer.py"
    peer.touch()
    words = ["--mode=infer", "--repeats=2", "--peer-python=python"]
    done = run(BENCHMARKS / "compare.py", *words, f"--peer-script={peer}", fails=True)
    assert "--repeats=2: an odd number" in done.stderr and not done.stdout


def test_architectures_are_measured_one_by_one(tmp_path):
    """The smallest that is published, at a size that takes seconds."""
    words = ["--configs", "torchvision_mobilenet_320_fpn", "--size=64x96"]
    done = run(
        BENCHMARKS / "architectures.py", *words, "--repeats=1", f"--save={tmp_path}"
    )
    line = only_line(done)
    assert line["name"] == "architectures"
    assert line["config"] == "torchvision_mobilenet_320_fpn"
    assert line["published_gmacs"] == 0.719 and 0.01 < line["gflops"] < 20
    assert line["parameters"] == 19_386_354 + 24_400  # norms are parameters here
    stored = (tmp_path / "architectures.jsonl").read_text().splitlines()
    assert [json.loads(text) for text in stored] == [line]


def test_the_input_pipeline_is_timed_and_weighed(shapes_root):
    words = [f"--root={shapes_root}", "--short-side=64", "--batch=4", "--images=8"]
    line = only_line(run(BENCHMARKS / "data.py", *words, "--rounds=1"))
    assert line["one_thread_img_s"] > 0 and line["threads_img_s"] > 0
    words = ["--records=64", "--batch=4", "--epochs=2"]
    line = only_line(run(BENCHMARKS / "data.py", *words))
    assert len(line["rss_mb"]) > 10 and min(line["rss_mb"]) > 20 and line["img_s"] > 0


def test_a_report_is_timed_and_weighed(tmp_path):
    words = ["--images=40", "--classes=7", "--pictures=0", f"--save={tmp_path}"]
    line = only_line(run(BENCHMARKS / "report.py", *words))
    assert (line["images"], line["classes"], line["detections"]) == (40, 7, 4000)
    assert line["report_s"] > 0 and line["page_mb"] > 0.01 and line["peak_rss_mb"] > 50
    assert line["prediction"] is None


def test_waiting_ends_with_the_line_waited_for():
    slow = "import time; print('ready: 1', flush=True); time.sleep(60)"
    assert 0 < cold_start.time_until("ready: ", ["-c", slow]) < 30
    with pytest.raises(RuntimeError, match="never said 'ready': almost"):
        cold_start.time_until("ready", ["-c", "print('almost ready')"])


def test_converting_is_timed_beside_its_imports(tiny, tmp_path):
    config = tiny[0].removeprefix("--config=")
    words = [f"--config={config}", "--repeats=1", f"--save={tmp_path}"]
    line = only_line(run(BENCHMARKS / "convert.py", *words))
    assert line["config"] == "tiny" and line["format"] == ".safetensors"
    assert line["imports_s"] > 0 and 0 < line["median_s"] <= line["max_s"]
    assert line["imports_rss_mb"] > 50 and 0 < line["file_mb"] < 5


def test_a_peer_that_fails_is_named(tiny, tmp_path):
    peer = tmp_path / "peer.py"
    peer.write_text("print('no json')")
    words = ["--mode=infer", tiny[1], "--rounds=1", f"--our-args={tiny[0]}"]
    words += [f"--peer-python={sys.executable}", f"--peer-script={peer}"]
    done = run(BENCHMARKS / "compare.py", *words, "--repeats=1", fails=True)
    assert "peer.py: its last line is no JSON" in done.stderr


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_stages_stand_beside_their_floors(tiny, mode):
    words = [*tiny, f"--mode={mode}", "--batch=2", "--boxes=3", "--repeats=2"]
    done = run(BENCHMARKS / "stages.py", *words)
    line = only_line(done)
    stages = {row["stage"]: row for row in line["stages"]}
    assert {"backbone", "FPN", "RPN head", "RoIAlign"} < set(stages)
    learns = {"RoIAlign, gradient", "box head and losses", "optimiser"}
    assert (learns < set(stages)) == (mode == "train")
    assert all(row["median_ms"] > 0 for row in line["stages"])
    assert stages["backbone"]["gflop"] > 0 < stages["backbone"]["floor_ms"]
    total = sum(row["median_ms"] for row in line["stages"])
    assert line["whole_ms"] == pytest.approx(total + line["rest_ms"], abs=0.1)
    assert line["peak_gflops"] > 1 < line["peak_gbs"]
    assert "x floor" in done.stderr and "RoIAlign" in done.stderr


def test_growth_is_measured_fitted_and_drawn(tiny, tmp_path):
    words = [*tiny, "--mode=infer", "--axis=batch", "--points=1,2", "--repeats=1"]
    file = tmp_path / "pictures" / "growth.svg"
    done = run(BENCHMARKS / "growth.py", *words, f"--picture={file}")
    line = only_line(done)
    assert EVERY < set(line) and line["size"] == [64, 96] and line["mode"] == "infer"
    (axis,) = line["axes"]
    assert axis["axis"] == "batch" and axis["failed"] is None
    assert [point["units"] for point in axis["points"]] == [1, 2]
    for point in axis["points"]:
        assert 0 < point["min_ms"] <= point["median_ms"] <= point["max_ms"]
        assert point["compile_s"] > 0 and point["programs"] == 1
        assert point["peak_rss_mb"] > 100 and point["device_mb"] is None
    times = [point["median_ms"] for point in axis["points"]]
    slope = math.log(times[1] / times[0]) / math.log(2)
    assert axis["exponents"]["time"] == pytest.approx(slope, abs=2e-3)
    assert ("time" in axis["superlinear"]) == (slope > 1.15)
    assert "exponents: time" in done.stderr
    drawing = ElementTree.parse(file).getroot()
    assert drawing.tag.endswith("svg") and len(drawing.findall("*/*")) > 10


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--points=1,2"], "needs the --axis"),
        (["--axis=batch", "--points=1,two"], "'two' is no batch"),
        (["--axis=size", "--points=64x"], "'64x' is no size"),
        (["--picture=growth.png"], "must end in .svg"),
        (["--axis=size", "--points=100x96"], "no point could be measured"),
    ],
)
def test_growth_says_what_is_wrong(tiny, words, complaint):
    done = run(BENCHMARKS / "growth.py", *tiny, *words, fails=True)
    assert complaint in done.stderr and not done.stdout


def test_sizes_of_the_model_can_be_asked_for(tiny):
    sizes = {"classes": 90, "proposals": 50, "max_detections": 7}
    words = [*tiny, "--warmup=1", "--repeats=1"]
    words += [f"--{name.replace('_', '-')}={value}" for name, value in sizes.items()]
    line = only_line(run(BENCHMARKS / "inference.py", *words))
    assert sizes.items() <= line.items()
    assert line["detections"] == [7]


def test_proposals_keep_the_ratio_before_suppression():
    section = config.RPN()
    workload.propose(section, 300)
    assert section.pre_nms_train == 600 and section.post_nms_train == 300
    assert section.pre_nms_test == section.post_nms_test == 300
