"""The page on speed: generated, up to date, and nothing in it but recorded figures."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {"cpu": "A Chip", "usable_cores": 4}
WHERE = {"machine": MACHINE, "commit": "0123456789ab", "dirty": False}
WHERE |= {"date": "2030-01-02T03:04:05+00:00"}
SETTING = {"config": "r50_fpn_1x", "size": [800, 1216], "batch": 1}
SETTING |= {"dtype": "float32", "precision": "default"}


@pytest.fixture(scope="module")
def performance():
    path = ROOT / "tools" / "performance.py"
    spec = importlib.util.spec_from_file_location("performance", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def results(performance, monkeypatch, tmp_path):
    """Empty folders in place of those of results and pages, and a way to add lines."""
    (tmp_path / "images").mkdir()
    monkeypatch.setattr(performance, "PAGE", tmp_path / "performance.md")
    monkeypatch.setattr(performance.tables, "RESULTS", tmp_path)
    monkeypatch.setattr(performance.tables, "IMAGES", tmp_path / "images")

    def add(name, **figures):
        with open(tmp_path / f"{name}.jsonl", "a") as file:
            file.write(json.dumps(WHERE | figures) + "\n")

    return add


def comparison(ms, platform="cpu", kind="cpu", **changes):
    device = {"platform": platform, "kind": kind, "memory": None}
    ours = SETTING | {"device": device} | changes
    peer = {"lib": "torchvision", "torchvision": "0.1"}
    figures = {"mode": "infer", "ours": ours, "peer": peer, "ours_ms": [ms - 1, ms + 1]}
    figures |= {"repeats": 3, "peer_args": ""}
    figures |= {"ours_median_ms": ms, "peer_ms": [50.0, 60.0], "peer_median_ms": 55.0}
    return figures | {"ratio": ms / 55, "ratios": [ms / 60, ms / 50]}


def curve(name, last, **changes):
    points = [
        {"value": str(n), "units": n, "median_ms": v, "min_ms": v, "max_ms": v}
        | {"compile_s": 2.0, "peak_rss_mb": 700.0, "device_mb": None}
        for n, v in ((1, 10.0), (2, last))
    ]
    slopes = {"time": 1.3, "memory": 0.0, "compile": None}
    axis = {"axis": name, "points": points, "exponents": slopes, "failed": None}
    return SETTING | {"mode": "infer", "axes": [axis | {"superlinear": ["time"]}]}


def test_the_page_is_what_the_script_writes(performance, capsys):
    assert performance.main(["--check"]) == 0, capsys.readouterr().out


def test_an_old_page_or_picture_is_noticed(performance, results, capsys, tmp_path):
    results("growth", **curve("batch", 30.0))
    assert performance.main(["--check"]) == 1
    said = capsys.readouterr().out
    assert "performance.md, growth_infer.svg" in said
    assert "python tools/performance.py" in said
    assert performance.main([]) == 0
    assert performance.main(["--check"]) == 0
    (tmp_path / "images" / "growth_infer.svg").write_text("old")
    assert performance.main(["--check"]) == 1


def test_the_newest_line_of_each_machine_and_setting_counts(performance, results):
    results("compare", **comparison(40.0))
    results("compare", **comparison(30.0, batch=2))
    results("compare", **comparison(20.0))
    results("compare", **comparison(10.0, platform="gpu", kind="A Card"))
    rows = performance.tables.compared().splitlines()[2:]
    assert len(rows) == 3
    assert "20 (19 to 21)" in rows[0] and "0.37 (0.33 to 0.40)" in rows[0]
    assert (
        "batch 2" in rows[1] and "| A Chip, 4 cores | 2030-01-02 | 0123456" in rows[1]
    )
    assert "| A Card |" in rows[2]


def test_what_is_switched_on_for_the_peer_makes_a_row_of_its_own(performance, results):
    results("compare", **comparison(20.0))
    changed = comparison(15.0, boxes=20, peak_rss_mb=900.4)
    changed |= {"peer_args": "--channels-last", "repeats": 2}
    changed["peer"] = changed["peer"] | {"channels_last": True, "peak_rss_mb": 700.0}
    results("compare", **changed)
    changed["peer_args"] += " --boxes-per-image=20"
    changed["peer"] = changed["peer"] | {"compile": "backbone"}
    results("compare", **changed)
    rows = performance.tables.compared().splitlines()[2:]
    assert "torchvision 0.1 |" in rows[0]
    assert "†" not in rows[0] and "| ?, ? |" in rows[0]
    assert "†, torchvision 0.1, channels last |" in rows[1]
    assert "| 20, peer 8 |" in rows[1] and "| 900, 700 |" in rows[1]
    assert "torchvision 0.1, backbone by torch.compile, channels last |" in rows[2]
    assert "| 20 |" in rows[2]


def test_a_stage_is_bound_by_what_its_floor_explains(performance):
    tables, line = performance.tables, {"peak_gflops": 100.0, "peak_gbs": 10.0}

    def bound(ms, gflop, mb):
        floor = 1e3 * max(gflop / 100, mb / 1e4)
        return tables.bound(
            {"median_ms": ms, "gflop": gflop, "mb": mb, "floor_ms": floor}, line
        )

    assert bound(15.0, 1.0, 10.0) == "arithmetic"
    assert bound(15.0, 0.1, 100.0) == "memory"
    assert bound(31.0, 1.0, 10.0) == "neither"
    assert bound(1.0, 0.0, 0.0) == ""


def test_steep_curves_are_marked_and_a_newer_axis_replaces_its_own_only(
    performance, results
):
    for name, last in (("batch", 30.0), ("classes", 40.0), ("batch", 50.0)):
        results("growth", **curve(name, last))
    rows = performance.tables.grown().splitlines()[2:4]
    assert "| batch |" in rows[0] and "10 to 50" in rows[0]
    assert "| classes |" in rows[1] and "10 to 40" in rows[1]
    assert "**1.30 superlinear**" in rows[0]
    assert performance.facts()["batching"].startswith("10 ms at batch 1 and 25 ms at")


def test_sixteen_bits_stand_beside_thirty_two_of_the_same_machine(performance, results):
    other = {"machine": {"cpu": "Another", "usable_cores": 2}}
    device = {"device": {"platform": "cpu", "kind": "cpu"}}
    assert "never timed" in performance.facts()["half_measured"]
    results("architectures", **SETTING | device | {"median_ms": 70.0})
    assert "never timed" in performance.facts()["half_measured"]
    half = SETTING | device | {"dtype": "bfloat16", "median_ms": 80.0}
    results("architectures", **half)
    results("architectures", **SETTING | device | other | {"median_ms": 50.0})
    said = performance.facts()["half_measured"]
    assert said == "bfloat16 took 80 ms for such an image where float32 took 70 ms"
    light = {"config": performance.LIGHT, "median_ms": 9.0}
    results("architectures", **SETTING | device | light)
    lighter = [performance.facts()[name] for name in ("light_ms", "usual_ms")]
    assert lighter == ["9 ms", "70 ms"]


def test_what_was_never_measured_is_called_so(performance, results):
    text = performance.page()
    assert text.count("**Never measured here**") == 2
    assert text.count("Not recorded yet.") >= 7
    assert "Measured on nothing yet. Never measured: GPU, TPU." in text
    assert "(not recorded) without" in text
    results("compare", **comparison(10.0, platform="gpu", kind="A Card"))
    text = performance.page()
    assert "Measured on A Card. Never measured: TPU." in text
    assert text.count("**Never measured here**") == 1


def test_the_advice_holds_no_figure_of_its_own(performance):
    """Numbers in it are names of versions, sizes and settings."""
    text = performance.ADVICE.read_text()
    known = r"R-50-FPN|float\d+|bfloat\d+|TF32|cuda13|800x1216|_320_fpn|16"
    assert not re.findall(r"\d+", re.sub(known, "", text))
    names = set(re.findall(r"\{(\w+)\}", text))
    assert names == set(performance.NAMES)


def test_a_name_without_a_figure_is_an_error(performance):
    with pytest.raises(KeyError, match="no figure is called"):
        performance.facts()["speed_of_light"]


def test_every_setting_of_the_advice_exists(performance):
    from frcnn_jax import config

    run = config.Run()
    text = performance.ADVICE.read_text()
    found = re.findall(r"`(?:--config\.)?((?:data|model|train)\.(?!py)\w+)", text)
    assert len(set(found)) >= 8
    for name in found:
        section, field = name.split(".")
        assert hasattr(getattr(run, section), field), name
    for script in re.findall(r"`((?:benchmarks|configs)/\S+\.py)`", text):
        assert (ROOT / script).exists()
