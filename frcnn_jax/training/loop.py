"""The one page: batches in, steps, log, checkpoints, evaluation."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from frcnn_jax import config
from frcnn_jax.training.checkpoint import Checkpoints
from frcnn_jax.training.distributed import to_batch
from frcnn_jax.training.guard import Guard, Taken
from frcnn_jax.training.log import Clock, MetricLog, progress_line
from frcnn_jax.training.state import TrainState
from frcnn_jax.training.stop import Stop, Stopped
from frcnn_jax.training.watch import Watch
from frcnn_jax.types import Variables


class Plan(NamedTuple):
    """When things happen, in steps."""

    total: int
    epoch_of: Callable[[int], float]  # steps done -> epochs done
    rate: Callable[[int], float]  # step -> learning rate
    eval_steps: frozenset[int]  # after how many steps to evaluate
    checkpoint_steps: frozenset[int]


class Rails(NamedTuple):
    """What a run has around its steps."""

    plan: Plan
    evaluate: Callable[[Variables, int], Mapping[str, Any]]
    checkpoints: Checkpoints
    log: MetricLog
    stop: Stop
    name_rows: Callable[[np.ndarray], Sequence[str]]  # rows of the data set -> images
    dumps: Path  # folder for batches that were not finite


def fit(
    state: TrainState,
    step_fn: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
    batches: Iterator[dict[str, np.ndarray]],
    *,
    rails: Rails,
    train: config.Train,
    key: jax.Array,
    mesh: jax.sharding.Mesh,
) -> TrainState:
    """Trains from `state` to the plan's last step.

    `batches` must begin with the batch of `state.step`. One step is in flight while the
    next batch is fetched; the wait counts as idle only if the device ran dry meanwhile.
    An evaluation that was cut off is done first. See `guard` for steps that are not
    finite.
    Errors: NonFinite after `train.max_nonfinite` of those in a row, Stopped when told
    to; in both cases the state is saved. SaveFailed.
    """
    plan, clock, started, last = rails.plan, Clock(), None, None
    done, guard, watch = int(state.step), Guard(rails, train), Watch()
    _evaluate_if_due(state, done, rails)
    while done < plan.total:
        # Fetch
        with watch.on(f"the data of step {done + 1}"):
            arrays, idle = _fetch(batches, last and last.metrics)
        batch = to_batch(arrays, mesh)

        # Step: wait for the one before, so that at most two are in flight
        before = last
        state, metrics = step_fn(state, batch, key)
        done += 1
        last = Taken(done, metrics, arrays)
        with watch.on(f"step {done - 1} on the device"):
            state = guard.look(before, state)
        clock.count(train.batch_size, idle)
        if started is None:  # the first step compiles; it says nothing about speed
            jax.block_until_ready(metrics)
            started = time.perf_counter(), done
            clock.reset()

        # Log
        if done % train.log_every == 0 or done == plan.total:
            state = guard.look(last, state)
            _log(last, rails, clock, started)

        # Save
        stopping = rails.stop.now(done)
        if stopping or done in plan.checkpoint_steps:
            state = guard.look(last, state)
            rails.checkpoints.save(state)
        if stopping:
            rails.checkpoints.wait()
            raise rails.stop.error(f"after step {done} of {plan.total}, which is saved")

        # Evaluate
        if done in plan.eval_steps:
            _evaluate(state, done, rails)
            clock.reset()
    return state


def _log(taken: Taken, rails: Rails, clock: Clock, started: tuple[float, int]) -> None:
    """Report a step, and begin the next interval."""
    done, total = taken.step, rails.plan.total
    values = _report(taken.metrics, clock, rails.plan, done)
    left = _seconds_left(started, done, total)
    print(progress_line(done, total, values, seconds_left=left), flush=True)
    rails.log.write(done, values)
    clock.reset()


def _evaluate_if_due(state: TrainState, done: int, rails: Rails) -> None:
    """Catch up on what a kill between a save and its evaluation left undone."""
    scored = rails.log.scores()
    if done in rails.plan.eval_steps and done not in scored:
        _evaluate(state, done, rails)
    elif done and scored.get(done) is not None and done == best(scored):
        rails.checkpoints.save_best(state)


def _evaluate(state: TrainState, done: int, rails: Rails) -> None:
    """Score, log, and keep what is best so far; told to stop, save instead."""
    try:
        found = rails.evaluate(state.variables, done)
    except Stopped:
        rails.checkpoints.save(state)
        rails.checkpoints.wait()
        raise
    rails.log.write(done, {f"eval/{k}": v for k, v in found.items() if k != "step"})
    if best(rails.log.scores()) == done:
        rails.checkpoints.save_best(state)


def best(scores: Mapping[int, float | None]) -> int | None:
    """The step of the highest AP, the first of equal ones; None without any."""
    known = {step: ap for step, ap in scores.items() if ap is not None}
    return max(known, key=known.get) if known else None


def _fetch(batches, metrics):
    """The next batch, and for how long the device waited for it."""
    start = time.perf_counter()
    arrays = next(batches)
    waited = time.perf_counter() - start
    device_idle = metrics is None or metrics["loss"].is_ready()
    return arrays, waited if device_idle else 0.0


def _report(metrics, clock: Clock, plan: Plan, done: int) -> dict[str, float]:
    values = {name: float(value) for name, value in metrics.items()} | clock.report()
    # Skipped steps do not move the optimiser's own count, which the rate follows.
    taken = done - int(values["skipped_steps"])
    rate = float(plan.rate(max(taken - 1, 0)))
    del values["finite"]
    return values | {"lr": rate, "epoch": plan.epoch_of(done)}


def _seconds_left(started: tuple[float, int], done: int, total: int) -> float:
    start, first = started
    if done == first:
        return 0.0
    return (time.perf_counter() - start) / (done - first) * (total - done)
