"""detectron2 names: round trips of real manifests, and the order of anchors."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax.convert import detectron2, files
from frcnn_jax.convert.layouts import size_major_anchors
from frcnn_jax.convert.rules import ConversionError

FOLDER = Path(__file__).parents[1] / "golden" / "detectron2"
NAMES = sorted(path.name for path in FOLDER.glob("names_*.json.gz"))


def listed_arrays(name):
    """Zeros, or for what has an order to lose, one number per element.

    The first fc keeps two of its outputs: it has up to a hundred million numbers.
    """
    listing = json.loads(gzip.decompress((FOLDER / name).read_bytes()))
    state = {}
    for key, (shape, dtype) in listing.items():
        if key.endswith("fc1.weight"):
            shape = (2, *shape[1:])
        moved = key.startswith(("proposal_generator", "roi_heads.box_predictor"))
        moved |= key.endswith("fc1.weight")
        if moved:
            state[key] = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
        else:
            state[key] = np.broadcast_to(np.zeros((), dtype), shape)
    return state


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_of_a_published_model(name):
    state = listed_arrays(name)
    converted = detectron2.conversion(state)
    assert not converted.unused and len(converted.variables) == len(state)
    back = detectron2.to_state_dict(converted.variables)
    assert list(map(np.shape, back.values())) == [
        state[key].shape for key in back
    ] and set(back) == set(state)
    for key, array in back.items():
        np.testing.assert_array_equal(array, state[key], err_msg=key)


def test_every_family_is_listed():
    assert {"names_R_50_C4.json.gz", "names_X_101_32x8d_FPN.json.gz"} <= set(NAMES)
    assert files.recognise(listed_arrays("names_R_50_C4.json.gz")) == "detectron2"


def test_anchors_run_over_ratios_first_with_us():
    """Two sizes, three ratios: theirs s0r0 s0r1 s0r2 s1r0 .., ours r0s0 r0s1 r1s0 .."""
    theirs = np.asarray([10, 11, 12, 20, 21, 22])
    ours = size_major_anchors(1, 1).to_ours(theirs)
    assert ours.tolist() == [10, 20, 11, 21, 12, 22]
    four = np.repeat(theirs, 4) * 10 + np.tile(np.arange(4), 6)
    layout = size_major_anchors(4, 1)
    assert layout.to_ours(four)[:8].tolist() == [100, 101, 102, 103, 200, 201, 202, 203]
    np.testing.assert_array_equal(layout.to_theirs(layout.to_ours(four)), four)
    with pytest.raises(ValueError, match="3 ratios x 4, found"):
        layout.to_ours(np.zeros(10))


def test_buffers_of_older_files_are_dropped_and_counted():
    state = {k: v for k, v in listed_arrays("names_R_50_C4.json.gz").items()}
    state["pixel_mean"] = np.zeros((3, 1, 1))
    state["proposal_generator.anchor_generator.cell_anchors.0"] = np.zeros((15, 4))
    assert "2 arrays, pixel means" in detectron2.conversion(state).notes()[0]


def test_a_layer_we_do_not_have_is_refused():
    state = {**listed_arrays("names_R_50_FPN.json.gz"), "roi_heads.mask_head.x": 0.0}
    with pytest.raises(ConversionError, match="roi_heads.mask_head.x"):
        detectron2.from_state_dict(state)
