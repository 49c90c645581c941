"""What the comparisons with recorded numbers share."""

import importlib.util
import json
import os
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from frcnn_jax import config

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def _recipe():
    path = GOLDEN / "mmdet" / "recipe.py"
    spec = importlib.util.spec_from_file_location("recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = _recipe()  # of the weights and images that mmdetection's numbers belong to


def recipe_weights(case, shapes: dict) -> dict[str, np.ndarray]:
    """mmdetection's state dict of a recorded case, made again from its notes."""
    gains = {
        str(k): float(f"{v:.3g}")
        for k, v in zip(case["__gain_keys"], case["__gain_vals"], strict=True)
    }
    offsets = {k[9:]: case[k] for k in case.files if k.startswith("__offset/")}
    in_scale = float(case["__in_scale"])
    return recipe.state_dict(shapes, in_scale=in_scale, gains=gains, offsets=offsets)


def narrow_weights(case) -> dict[str, np.ndarray]:
    """The same for a narrow detector, which notes its shapes too."""
    return recipe_weights(case, json.loads(str(case["__shapes"])))


def recorded_state(case) -> dict[str, np.ndarray]:
    """The peer's state dict, stored as `state/<name>` beside other arrays."""
    return {k[6:]: case[k] for k in case.files if k.startswith("state/")}


def nested(flat: dict) -> dict:
    """{"a/b": array} as {"a": {"b": array}}, on the device."""
    tree = {}
    for path, value in flat.items():
        *parents, leaf = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = jnp.asarray(value)
    return tree


ERRORS: dict[str, dict[str, float]] = {}  # of each test by what was compared


def note(what: str, error) -> float:
    """Keeps the running test's largest error of a kind, for the table of results."""
    test = os.environ["PYTEST_CURRENT_TEST"].split("::")[-1].split(" ")[0]
    kinds = ERRORS.setdefault(test, {})
    kinds[what] = max(kinds.get(what, 0.0), float(f"{float(error):.2g}"))
    return float(error)


def assert_close(ours, theirs, relative, what="maps"):
    """Largest difference against the largest value of the peer."""
    theirs = np.asarray(theirs)
    assert np.shape(ours) == theirs.shape
    error = np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()
    assert note(what, error) < relative, error


def assert_map(ours, case, name, relative=1e-4):
    """A map NHWC against a recorded NCHW one, whole or at recorded positions."""
    ours = np.asarray(ours).transpose(0, 3, 1, 2)
    if name in case:
        assert_close(ours, case[name], relative)
        return
    theirs, index = case[f"{name}_val"], case[f"{name}_idx"]
    scale = case[f"{name}_max"] if f"{name}_max" in case else case[f"{name}_stats"][2]
    error = np.abs(ours.reshape(-1)[index] - theirs).max() / scale
    assert note("maps", error) < relative, (name, error)


def assert_loss(ours, theirs, name):
    """A loss of a training step, to 1e-4 of its value."""
    error = abs(float(ours) - float(theirs)) / max(abs(float(theirs)), 1e-12)
    assert note("losses", error) < 1e-4, (name, float(ours), float(theirs))


def assert_one_to_one(found, boxes, scores, labels, box_tolerance=0.05):
    """Detections as the peer's: same class, score to 1e-3; near-equal scores swap.

    `found` is of one image, `labels` count from 1.
    """
    ours = [np.asarray(x) for x in (found.labels, found.scores, found.boxes)]
    assert (ours[0] > 0).sum() == len(labels)
    free = np.ones(len(ours[0]), bool)
    for box, score, label in zip(boxes, scores, labels, strict=True):
        away = np.abs(ours[1] - score), np.abs(ours[2] - box).max(1)
        same = free & (ours[0] == label) & (away[0] < 1e-3) & (away[1] < box_tolerance)
        assert same.any(), (box, score, label)
        partner = np.where(same, away[0], np.inf).argmin()
        free[partner] = False
        note("scores", away[0][partner])
        note("boxes_px", away[1][partner])


def frame(boxes) -> np.ndarray:
    """Boxes of Caffe's lineage, which name their last pixel, as ours."""
    return np.asarray(boxes, np.float32) + np.asarray([0, 0, 1, 1], np.float32)


def load_config(name: str) -> config.Run:
    """The run of `configs/<name>.py`."""
    path = GOLDEN.parents[1] / "configs" / f"{name}.py"
    return runpy.run_path(str(path))["get_config"]()


# A few activations lie within rounding of the kink of a relu, where the gradient jumps
# by some 1e-3 with the order of summation (it differs between thread counts). So the
# peer's gradient has to be found, to the tolerance in every norm at once, among weights
# that differ by less than the rounding of float32. Typically it then agrees to 1e-6.
KINK_TRIALS = 24


def gradient_error(gradient, variables, norms: dict, to_theirs, enough=1e-3) -> float:
    """Largest relative error of a gradient norm, least over slightly moved weights.

    `gradient(params)` gives gradients, `norms` are the peer's by its names, `to_theirs`
    renames a flat `{path: array}` of ours.
    """
    stats = {f"batch_stats/{k}": v for k, v in flat(variables["batch_stats"]).items()}
    expected = np.asarray(list(norms.values()))
    best = np.inf
    for trial in range(KINK_TRIALS + 1):
        params = variables["params"] if trial == 0 else _moved(variables, trial)
        ours = {f"params/{k}": v for k, v in flat(gradient(params)).items()}
        ours = to_theirs(stats | ours)
        found = np.asarray([np.linalg.norm(ours[str(name)]) for name in norms])
        error = np.abs(found - expected) / (expected + 1e-6 * expected.max())
        best = min(best, float(error.max()))
        if best < enough:
            break
    return note("gradient_norms", best)


def _moved(variables, seed):
    rng = np.random.default_rng(seed - 1)

    def move(x):
        noise = rng.standard_normal(x.shape).astype(np.float32)
        return x * (1 + np.float32(2e-7) * noise)

    return jax.tree.map(move, variables["params"])


def flat(tree: dict) -> dict[str, np.ndarray]:
    """{"a": {"b": array}} as {"a/b": array}."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(k.key for k in path): np.asarray(value) for path, value in paths}
