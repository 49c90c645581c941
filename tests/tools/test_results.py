"""The table of results: generated, complete, and the errors it claims are recorded."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results():
    path = ROOT / "tools" / "results.py"
    spec = importlib.util.spec_from_file_location("results", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_writes(results, capsys):
    assert results.main(["--check"]) == 0, capsys.readouterr().out


def test_an_old_page_is_noticed(results, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(results, "PAGE", tmp_path / "results.md")
    assert results.main(["--check"]) == 1
    assert "python tools/results.py" in capsys.readouterr().out
    assert results.main([]) == 0
    assert results.main(["--check"]) == 0


def test_every_published_row_stands_in_the_table_once(results):
    lines = (ROOT / "docs" / "results.md").read_text().splitlines()
    rows = list(results.rows())
    assert len(rows) >= 30
    for row in rows:
        own = [line for line in lines if line.startswith(f"| [{row.name}](")]
        assert len(own) == 1, row.name
        assert f"| {row.published}" in own[0]


def test_every_row_has_proof_of_parity(results):
    """Each architecture is known, and its tests are among the recorded ones."""
    errors = json.loads((results.RESULTS / "parity.json").read_text())
    models = {row.name: row.run.model for row in results.rows()}
    known = {name: models[name] for name in results.PARITY if name in models}
    assert len(known) == len(results.PARITY)
    for row in results.rows():
        base = results.architecture(row.run, known)
        found = results.parity(row.name, base, errors)
        assert "maps" in found and found["maps"] < 1e-4, row.name


def test_the_largest_error_of_all_tests_counts(results):
    errors = {
        "test_small_image[r50_fpn]": {"maps": 1e-6, "boxes_px": 2e-4},
        "test_training[fpn-all]": {"maps": 3e-6, "losses": 1e-7},
        "test_detections_from_recorded_outputs[fpn-all]": {"maps": 1.0},
        "test_training[c4-all]": {"maps": 0.5},
    }
    found = results.parity("r50_fpn_2x", "r50_fpn_1x", errors)
    assert found == {"maps": 3e-6, "boxes_px": 2e-4, "losses": 1e-7}


def test_lines_of_other_settings_leave_a_row_as_it_is(results, monkeypatch, tmp_path):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    usual = {"config": "a", "size": [800, 1216], "batch": 1, "dtype": "float32"}
    usual["device"] = {"platform": "cpu"}
    lines = [usual | {"ms": 1}, usual | {"ms": 2}, usual | {"config": "b", "ms": 3}]
    lines += [usual | {"dtype": "bfloat16", "ms": 4}, usual | {"batch": 8, "ms": 5}]
    lines += [usual | {"device": {"platform": "gpu"}, "ms": 6}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = results.newest("x.jsonl", results.usual)
    assert {name: line["ms"] for name, line in found.items()} == {"a": 2, "b": 3}
    assert results.newest("x.jsonl")["a"]["ms"] == 6  # trained on a GPU, say
