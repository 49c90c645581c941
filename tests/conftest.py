"""Where tests run: JAX on the CPU with eight virtual devices, one seed, one cache."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags

ROOT = Path(__file__).resolve().parents[1]

# Before any backend starts, so here and not in a fixture: test modules may compute
# while they are imported.
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

# Compiled programs are kept between runs; the Makefile sets the same place.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

# Grain asks absl for its flags, which nobody parses under pytest.
flags.FLAGS.mark_as_parsed()


@pytest.fixture
def rng() -> np.random.Generator:
    """The same random numbers for every test, whatever ran before it."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of stored numbers; each file says there how it was made."""
    return ROOT / "tests" / "golden"
