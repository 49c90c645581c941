"""Loaded over fresh: strict, with patterns, and a report that counts."""

import numpy as np
import pytest

from frcnn_jax.convert.merge import merge
from frcnn_jax.convert.rules import ConversionError

FRESH = {
    "params/backbone/stem/conv/kernel": np.zeros((1, 1, 3, 2), np.float32),
    "batch_stats/backbone/stem/norm/mean": np.zeros(2, np.float32),
    "params/box_head/predictor/classes/kernel": np.zeros((4, 3), np.float32),
    "params/box_head/predictor/classes/bias": np.zeros(3, np.float32),
}
PREDICTOR = "box_head/predictor/.*"


def ones_like(arrays):
    return {path: np.ones_like(array) for path, array in arrays.items()}


def test_merge_takes_everything_that_fits():
    variables, report = merge(FRESH, ones_like(FRESH))
    assert list(variables) == list(FRESH)
    assert all(array.all() for array in variables.values())
    assert not FRESH["params/box_head/predictor/classes/bias"].any()
    assert report.text() == "loaded 4 arrays"


def test_merge_skips_by_pattern_and_says_so():
    loaded = ones_like(FRESH)
    loaded["params/box_head/predictor/classes/kernel"] = np.ones((4, 81), np.float32)
    loaded["params/box_head/predictor/deltas/bias"] = np.ones(320, np.float32)
    variables, report = merge(FRESH, loaded, (PREDICTOR,))
    assert not variables["params/box_head/predictor/classes/kernel"].any()
    assert variables["params/backbone/stem/conv/kernel"].all()
    assert len(report.loaded) == 2
    assert len(report.skipped) == 2 and len(report.unused) == 3
    assert report.text().splitlines() == [
        "loaded 2 arrays",
        "kept fresh, skipped: 2 (box_head/predictor 2)",
        "in the file but unused: 3 (box_head/predictor 3)",
    ]


def test_merge_error_lists_every_path_and_proposes_a_pattern():
    loaded = ones_like(FRESH)
    loaded["params/box_head/predictor/classes/kernel"] = np.ones((4, 81), np.float32)
    del loaded["params/box_head/predictor/classes/bias"]
    loaded["params/box_head/predictor/deltas/bias"] = np.ones(320, np.float32)
    with pytest.raises(ConversionError) as error:
        merge(FRESH, loaded)
    text = str(error.value)
    assert (
        "missing in the file (1):\n    params/box_head/predictor/classes/bias" in text
    )
    assert "not in the model (1):\n    params/box_head/predictor/deltas/bias" in text
    assert "classes/kernel: model (4, 3), file (4, 81)" in text
    assert text.endswith(
        "leave these fresh in training: --config.init.skip='box_head/predictor/.*'"
    )


def test_faults_all_over_propose_no_pattern():
    """Skipping everything would be the pattern."""
    with pytest.raises(ConversionError, match="another architecture") as error:
        merge(FRESH, {"params/neck/conv/kernel": np.ones(2, np.float32)})
    assert "init.skip" not in str(error.value)


def test_merge_allows_what_the_caller_says_is_missing():
    loaded = {path: a for path, a in ones_like(FRESH).items() if "backbone" in path}
    variables, report = merge(FRESH, loaded, allow_missing=("(?!backbone/).*",))
    assert variables["batch_stats/backbone/stem/norm/mean"].all()
    assert len(report.loaded) == 2 and len(report.absent) == 2
    assert "kept fresh, not in the file: 2 (box_head/predictor 2)" in report.text()

    del loaded["batch_stats/backbone/stem/norm/mean"]
    with pytest.raises(ConversionError, match=r"norm/mean \(2,\)"):
        merge(FRESH, loaded, allow_missing=("(?!backbone/).*",))


def test_allowed_to_be_missing_is_not_allowed_to_misfit():
    loaded = ones_like(FRESH)
    loaded["params/box_head/predictor/classes/bias"] = np.ones(81, np.float32)
    with pytest.raises(ConversionError, match=r"model \(3,\), file \(81,\)"):
        merge(FRESH, loaded, allow_missing=(".*",))


def test_patterns_match_whole_paths():
    _, report = merge(FRESH, ones_like(FRESH), ("params/box_head/.*",))
    assert len(report.skipped) == 2
    with pytest.raises(ConversionError, match="'box_head' matches no path"):
        merge(FRESH, ones_like(FRESH), ("box_head",))
    with pytest.raises(ConversionError, match="not a regular expression"):
        merge(FRESH, ones_like(FRESH), ("box_head/(",))
    with pytest.raises(ConversionError, match="tuple of strings"):
        merge(FRESH, ones_like(FRESH), PREDICTOR)


def test_merge_casts_floats_only():
    half = {path: a.astype(np.float16) for path, a in ones_like(FRESH).items()}
    variables, report = merge(FRESH, half)
    assert {a.dtype for a in variables.values()} == {np.dtype(np.float32)}
    assert "cast to the type of the model: 4" in report.text()
    whole = {path: a.astype(np.int32) for path, a in half.items()}
    with pytest.raises(ConversionError, match="model float32, file int32"):
        merge(FRESH, whole)
