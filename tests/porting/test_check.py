"""What `convert.py --check` prints."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from frcnn_jax import build
from frcnn_jax.porting import check
from frcnn_jax.porting.source import Source


@pytest.fixture
def narrow(tiny_run, quick_compile):
    tiny_run.model.num_classes = 3
    flat = traverse_util.flatten_dict(build.fresh_variables(tiny_run), sep="/")
    flat = {name: np.array(value) for name, value in flat.items()}
    return Source("w", tiny_run, None, flat, "")


def test_sound_weights(narrow):
    lines = check.report(narrow)
    modules = {"/".join(path.split("/")[1:3]) for path in narrow.variables}
    assert {line.split()[0] for line in lines[1 : 1 + len(modules)]} == modules
    assert lines[-2].startswith("prediction on a drawing: ")
    assert lines[-1] == "odd: nothing"


def test_spoiled_weights(narrow):
    narrow.variables["params/rpn/conv/kernel"][:] = np.nan
    lines = check.report(narrow)
    assert "odd: NaN or infinity: 1 (params/rpn/conv/kernel)" in lines


def test_a_prediction_that_is_no_number(narrow, monkeypatch):
    found = jax.tree.map(lambda x: x, check.predict(narrow))
    spoiled = found._replace(boxes=found.boxes * np.nan)
    monkeypatch.setattr(check, "predict", lambda _: spoiled)
    assert check.report(narrow)[-1] == "odd: a prediction with NaN or infinity"
