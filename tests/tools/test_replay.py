import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from frcnn_jax import build, labels, runs
from frcnn_jax.training import distributed
from frcnn_jax.training.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("replay", ROOT / "tools/replay.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def kept(tiny_run, tmp_path):
    """A run's folder with a checkpoint, and its first batch as training keeps one."""
    tiny_run.train.batch_size = 2
    run, data, _ = build.datasets(tiny_run)
    runs.save_run(tmp_path, run, labels.of_data(data))
    batches = build.train_batches(run, data, 0)
    plan = build.plan(run, batches.schedule)
    mesh = distributed.make_mesh(1)
    state, _ = build.training_state(run, mesh, plan, load=False)
    with Checkpoints(tmp_path, 1) as saved:
        saved.save(state)
    arrays = next(batches)
    batches.close()
    arrays["boxes"] = np.where(arrays["labels"][..., None] > 0, np.nan, arrays["boxes"])
    (tmp_path / "nonfinite").mkdir()
    np.savez(tmp_path / "nonfinite" / "step_1.npz", step=1, **arrays)
    return tmp_path / "nonfinite" / "step_1.npz"


def test_a_kept_batch_tells_which_terms_break(tool, kept, capsys):
    tool.FLAGS.unparse_flags()
    tool.FLAGS(["replay"])
    tool.main(["replay", str(kept)])
    told = capsys.readouterr().out
    assert f"{kept}: step 1, parameters of {kept.parents[1]} at step 0" in told
    broken = told.splitlines()[-1]
    assert broken.startswith("not finite: ") and "loss" in broken
    assert "gradient norm of" in told and "rpn/" in told and "box_head/" in told


def test_other_files_are_refused(tool, kept):
    with pytest.raises(FileNotFoundError, match="there is step_1.npz"):
        tool.load(kept.with_name("step_2.npz"))
    np.savez(kept.with_name("other.npz"), a=1)
    with pytest.raises(ValueError, match="no batch that training kept"):
        tool.load(kept.with_name("other.npz"))
    step, batch = tool.load(kept)
    assert step == 1 and batch.images.dtype == jax.numpy.uint8
