"""The one page: batches in, steps, log, checkpoints, evaluation."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from frcnn_jax import config
from frcnn_jax.training.checkpoint import Checkpoints
from frcnn_jax.training.distributed import to_batch
from frcnn_jax.training.log import Clock, MetricLog, progress_line
from frcnn_jax.training.state import TrainState
from frcnn_jax.types import Variables


class Plan(NamedTuple):
    """When things happen, in steps."""

    total: int
    epoch_of: Callable[[int], float]  # steps done -> epochs done
    rate: Callable[[int], float]  # step -> learning rate
    eval_steps: frozenset[int]  # after how many steps to evaluate
    checkpoint_steps: frozenset[int]


class NonFinite(ArithmeticError):
    """A loss became NaN or infinite."""


def fit(
    state: TrainState,
    step_fn: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
    batches: Iterator[dict[str, np.ndarray]],
    *,
    plan: Plan,
    evaluate: Callable[[Variables, int], Mapping[str, Any]],
    checkpoints: Checkpoints,
    log: MetricLog,
    train: config.Train,
    key: jax.Array,
    mesh: jax.sharding.Mesh,
) -> TrainState:
    """Trains from `state` to `plan.total` steps.

    `batches` must begin with the batch of `state.step`. One step is in flight while the
    next batch is fetched; the wait counts as idle only if the device ran dry meanwhile.
    Errors: NonFinite, naming step, terms and images, at the next report or save, so
    that a broken state never replaces a good one.
    """
    done, clock, metrics, started = int(state.step), Clock(), None, None
    while done < plan.total:
        # Fetch
        arrays, idle = _fetch(batches, metrics)
        batch = to_batch(arrays, mesh)

        # Step: wait for the one before, so that at most two are in flight
        before = metrics
        state, metrics = step_fn(state, batch, key)
        jax.block_until_ready(before)
        done += 1
        clock.count(train.batch_size, idle)
        if started is None:  # the first step compiles; it says nothing about speed
            jax.block_until_ready(metrics)
            started = time.perf_counter(), done
            clock.reset()

        # Log
        if done % train.log_every == 0 or done == plan.total:
            values = _report(metrics, clock, plan, done, arrays["image_id"])
            left = _seconds_left(started, done, plan.total)
            print(
                progress_line(done, plan.total, values, seconds_left=left), flush=True
            )
            log.write(done, values)
            clock.reset()

        # Save
        if done in plan.checkpoint_steps:
            _finite(metrics, done, arrays["image_id"])
            checkpoints.save(state)

        # Evaluate
        if done in plan.eval_steps:
            found = evaluate(state.variables, done)
            log.write(done, {f"eval/{k}": v for k, v in found.items() if k != "step"})
            clock.reset()
    return state


def _fetch(batches, metrics):
    """The next batch, and for how long the device waited for it."""
    start = time.perf_counter()
    arrays = next(batches)
    waited = time.perf_counter() - start
    device_idle = metrics is None or metrics["loss"].is_ready()
    return arrays, waited if device_idle else 0.0


def _report(
    metrics, clock: Clock, plan: Plan, done: int, image_ids
) -> dict[str, float]:
    values = _finite(metrics, done, image_ids) | clock.report()
    # Skipped steps do not move the optimiser's own count, which the rate follows.
    taken = done - int(values.get("skipped_steps", 0))
    rate = float(plan.rate(max(taken - 1, 0)))
    return values | {"lr": rate, "epoch": plan.epoch_of(done)}


def _finite(metrics, done: int, image_ids) -> dict[str, float]:
    """The metrics as numbers, if they are.

    With a loss scale a step that overflows is skipped, which is no error until halving
    has taken the scale below 1: then the loss itself is broken.
    """
    values = {name: float(value) for name, value in metrics.items()}
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if broken and values.get("loss_scale", 0.0) < 1.0:
        raise NonFinite(
            f"{', '.join(broken)} not finite at step {done}; rows of the data set in"
            f" this batch: {image_ids.tolist()}. Look at these images' boxes, or lower"
            " train.lr"
        )
    return values


def _seconds_left(started: tuple[float, int], done: int, total: int) -> float:
    start, first = started
    if done == first:
        return 0.0
    return (time.perf_counter() - start) / (done - first) * (total - done)
