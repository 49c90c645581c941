"""Where tests run: JAX on the CPU with eight virtual devices, one seed, one cache."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags

from frcnn_jax import config
from frcnn_jax.data import shapes

ROOT = Path(__file__).resolve().parents[1]

# Programs of tests run a few times only, those of started scripts too: they are
# compiled without optimisation, which takes a sixth of the time for a training step.
# What the caller asks of XLA comes last and wins.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
        os.environ.get("XLA_FLAGS", ""),
    ]
)

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


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory) -> Path:
    """A drawn COCO folder: 12 training and 6 validation images, wide and tall."""
    root = tmp_path_factory.mktemp("shapes")
    shapes.write_shapes(root, train_images=12, val_images=6, seed=0)
    return root


@pytest.fixture
def tiny_run(shapes_root) -> config.Run:
    """A narrow detector on small canvases, (64, 96) and (96, 64), for whole steps."""
    run = config.Run()
    data, model, train = run.data, run.model, run.train
    data.root, data.threads, data.prefetch = str(shapes_root), 2, 2
    data.short_sides, data.max_side, data.eval_short_side = (64,), 96, 64
    data.buckets = ((64, 96), (96, 64))
    model.num_classes, model.fpn.channels, model.fpn.levels = 0, 16, 3
    model.backbone.depth, model.backbone.width = 18, 8
    model.backbone.stages, model.backbone.norm = ("c2", "c3"), "batch"
    model.rpn.channels, model.rpn.anchor_sizes = 16, ((8.0,), (16.0,), (32.0,))
    model.rpn.pre_nms_train = model.rpn.pre_nms_test = 60
    model.rpn.post_nms_train = model.rpn.post_nms_test = 30
    model.rpn.samples, model.roi.samples, model.roi.fc = 64, 32, (32, 32)
    model.roi.finest_scale, model.roi.max_detections = 14.0, 20
    train.batch_size = train.lr_batch_size = run.eval.batch_size = 8
    train.epochs, train.milestones, train.warmup_steps = 4.0, (3.0,), 0
    train.freeze, train.log_every = ("backbone/stem/.*",), 1
    return run


@pytest.fixture
def quick_compile():
    """Compiles without optimisation, for programs that run a few times only."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)
