"""Full-size architectures for one step: what is checked, and which part is chosen."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax import config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool():
    path = ROOT / "tools" / "check_configs.py"
    spec = importlib.util.spec_from_file_location("check_configs", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("part", "expected"),
    [("1/1", "abcde"), ("1/2", "ace"), ("2/2", "bd"), ("5/5", "e"), ("6/5", "a")],
)
def test_parts_share_the_names(tool, monkeypatch, part, expected):
    seen = []
    monkeypatch.setattr(tool, "check", lambda name: seen.append(name) or name)
    assert tool.main([f"--part={part}", "--names", *"abcde"]) == 0
    assert seen == list(expected)


def test_one_that_fails_is_named_and_the_others_run(tool, monkeypatch, capsys):
    def check(name):
        if name == "b":
            raise AssertionError("loss nan")
        return f"{name}: fine"

    monkeypatch.setattr(tool, "check", check)
    assert tool.main(["--names", "a", "b", "c"]) == 1
    assert capsys.readouterr().out.splitlines() == ["a: fine", "b: loss nan", "c: fine"]


def test_what_learns_has_to_move_and_what_is_frozen_not(tool):
    train = config.Train(freeze=("backbone/.*",))
    old = {
        "backbone": {"conv": {"kernel": np.zeros(2)}},
        "rpn": {"conv": {"kernel": np.zeros(2), "bias": np.zeros(2)}},
    }
    moved = {"conv": {"kernel": np.ones(2), "bias": np.zeros(2)}}
    tool._check_moves(old, {**old, "rpn": moved}, train)
    with pytest.raises(AssertionError, match="did not learn: rpn/conv/kernel"):
        tool._check_moves(old, old, train)
    with pytest.raises(AssertionError, match="frozen but moved: backbone/conv/kernel"):
        tool._check_moves(old, {"backbone": moved, "rpn": moved}, train)


def test_every_architecture_of_the_table_is_among_them(tool):
    """Each published row has the network of one of the checked configurations."""
    path = ROOT / "tools" / "results.py"
    spec = importlib.util.spec_from_file_location("results", path)
    results = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(results)
    models = {row.name: row.run.model for row in results.rows()}
    known = {name: models[name] for name in tool.architectures.CONFIGS}
    lacking = {
        row.name
        for row in results.rows()
        if results.architecture(row.run, known) is None
    }
    # Two have fewer anchors than their COCO siblings, two a trunk twice as deep.
    assert lacking == {
        *("jwyang_res101_voc07", "jwyang_vgg16_voc07"),
        *("detectron2_r101_c4", "detectron2_r101_dc5"),
    }
