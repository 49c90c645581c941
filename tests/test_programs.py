"""How many programs a run compiles: one for each canvas, and never one again."""

import jax
import pytest

from frcnn_jax import build
from frcnn_jax.data import sources
from frcnn_jax.training import distributed, step
from frcnn_jax.training.checkpoint import Checkpoints


@pytest.fixture
def compilations():
    """The names of all compilations so far, of whatever function."""
    seen = []

    def listen(event, seconds, **details):
        if event.endswith("backend_compile_duration"):
            seen.append(details.get("fun_name", event))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.usefixtures("quick_compile")
def test_two_canvases_are_two_programs_each(tiny_run, tmp_path, compilations):
    """Training, then continuing from a checkpoint, then scoring."""
    run, data, val = build.datasets(tiny_run)
    mesh = distributed.make_mesh(1)
    batches = build.train_batches(run, data, 0)
    plan = build.plan(run, batches.schedule)
    state, tx = build.training_state(run, mesh, plan, load=True)
    take = step.make_train_step(build.detector(run.model), tx, run.train.freeze, mesh)
    key, canvases = jax.random.key(run.seed), set()

    def advance(state, count):
        for _ in range(count):
            arrays = next(batches)
            canvases.add(arrays["images"].shape)
            state, metrics = take(state, distributed.to_batch(arrays, mesh), key)
        jax.block_until_ready(metrics)
        return state

    before = len(compilations)
    state = advance(state, 4)
    assert len(canvases) == 2
    assert take._cache_size() == 2
    assert len(compilations) - before >= 2  # the counter counts

    done = len(compilations)
    state = advance(state, 3)
    assert take._cache_size() == 2 and compilations[done:] == []

    with Checkpoints(tmp_path, keep=1) as saved:
        saved.save(state)
        fresh, _ = build.training_state(run, mesh, plan, load=False)
        restored = saved.restore(fresh)
    done = len(compilations)
    restored = advance(restored, 3)
    assert take._cache_size() == 2 and compilations[done:] == []
    batches.close()

    evaluator = build.Evaluator(run, val, mesh)
    assert len({plan.bucket for plan in evaluator.batches.plans}) == 2
    for _ in range(2):
        evaluator.results(restored.variables)
        assert evaluator._predict._cache_size() == 2


@pytest.mark.parametrize("split", ["train", "val"])
def test_canvases_depend_on_orientation_alone(tiny_run, split):
    """Without own buckets: two, however many sizes the images have."""
    tiny_run.data.buckets = ()
    data = sources.load(tiny_run.data, split, training=False)
    assert len({(r.height, r.width) for r in data.records}) > 2
    run = build.with_classes(tiny_run, data)
    evaluator = build.Evaluator(run, data, distributed.make_mesh(1))
    assert len(evaluator.batches.buckets) == 2
