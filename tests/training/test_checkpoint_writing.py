"""Saving where that cannot work: full, read-only and wrong folders."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from frcnn_jax.training.checkpoint import Checkpoints, SaveFailed
from frcnn_jax.training.state import TrainState

# Saves step 1, then step 2 after something has happened to the folder.
PROGRAM = """
import os, resource, shutil, signal, sys
from pathlib import Path
import jax, jax.numpy as jnp
from frcnn_jax.training.checkpoint import Checkpoints, SaveFailed
from frcnn_jax.training.state import TrainState

def state(number):
    big = jax.random.normal(jax.random.key(number), (64, 1024))
    variables, skipped = {"params": {"a": big}}, jnp.int32(0)
    return TrainState(jnp.int32(number), variables, {"b": big}, skipped)

folder = Path(sys.argv[1])
try:
    with Checkpoints(folder, keep=2, best_effort="effort" in sys.argv) as saved:
        saved.save(state(1))
        saved.wait()
        HAPPENS
        saved.save(state(2))
        AFTERWARDS
    print("saved")
except SaveFailed as error:
    print(error)
"""
LIMIT = """
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
"""
BARE = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]


def bound():
    """Words before a command that let permissions bind the administrator too."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("permissions do not bind this user, and there is no setpriv")
    return BARE


def told(folder, happens, before=(), afterwards="", words=()):
    """What the program prints."""
    text = PROGRAM.replace("        HAPPENS\n", happens)
    text = text.replace("        AFTERWARDS\n", afterwards)
    done = subprocess.run(
        [*before, sys.executable, "-c", text, str(folder), *words],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_first_is_intact(folder):
    big = jnp.zeros((64, 1024))
    with Checkpoints(folder, keep=None) as saved:
        found, step = saved.restore_variables({"params": {"a": big}})
    assert step == 1
    expected = jax.random.normal(jax.random.key(1), (64, 1024))
    np.testing.assert_array_equal(found["params"]["a"], expected)


def test_a_file_that_may_not_grow(tmp_path):
    said = told(tmp_path, LIMIT)
    assert f"could not be written to {tmp_path}" in said
    assert "those of steps [1] are as they were. Make room there" in said
    assert_first_is_intact(tmp_path)


def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=900k", "none", str(disk)]
    if (
        not shutil.which("mount")
        or subprocess.run(mount, capture_output=True).returncode
    ):
        pytest.skip("a small disk cannot be mounted here")
    try:
        said = told(disk, "")
        assert f"could not be written to {disk}" in said
        assert "those of steps [1] are as they were" in said
        assert_first_is_intact(disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_becomes_read_only(tmp_path):
    said = told(tmp_path, "        (folder / 'checkpoints').chmod(0o500)\n", bound())
    (tmp_path / "checkpoints").chmod(0o700)
    assert f"could not be written to {tmp_path}" in said
    assert "steps [1] are as they were. Make room there, or allow writing" in said
    assert_first_is_intact(tmp_path)


def test_a_folder_that_becomes_a_file(tmp_path):
    """Not even listing what is there works."""
    happens = """
        (folder / "checkpoints").rename(folder / "moved")
        (folder / "checkpoints").touch()
"""
    said = told(tmp_path, happens)
    assert f"could not be written to {tmp_path}" in said
    (tmp_path / "checkpoints").unlink()
    (tmp_path / "moved").rename(tmp_path / "checkpoints")
    assert_first_is_intact(tmp_path)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "checkpoints").touch()
    with pytest.raises(SaveFailed, match="checkpoints .*Make room there, or allow"):
        Checkpoints(tmp_path, keep=2)


def test_a_file_where_the_best_should_be(tmp_path):
    (tmp_path / "best").touch()
    weights = {"params": {"a": jnp.zeros(3)}}
    state = TrainState(jnp.int32(1), weights, {}, jnp.int32(0))
    with (
        Checkpoints(tmp_path, keep=2) as saved,
        pytest.raises(SaveFailed, match=f"{tmp_path}.best"),
    ):
        saved.save_best(state, 0.5)


def test_best_effort_goes_on_and_the_last_state_is_tried_twice(tmp_path):
    happens = """
        (folder / "checkpoints").rename(folder / "moved")
        (folder / "checkpoints").touch()
"""
    afterwards = """
        saved.save(state(3))
        (folder / "checkpoints").unlink()
        (folder / "moved").rename(folder / "checkpoints")
        saved.save(state(4), final=True)
"""
    said = told(tmp_path, happens, (), afterwards, ["effort"])
    assert said.count("Training goes on (train.save_best_effort)") >= 2
    assert said.endswith("saved\n")
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} >= {"1", "4"}
    said = told(tmp_path / "other", happens, (), afterwards)
    assert "Training goes on" not in said and "could not be written" in said
