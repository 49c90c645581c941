"""The one page: batches in, steps, log, checkpoints, evaluation."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.typing import ArrayLike

from frcnn_jax import config
from frcnn_jax.training.checkpoint import Checkpoints
from frcnn_jax.training.distributed import to_batch
from frcnn_jax.training.guard import Guard, Taken
from frcnn_jax.training.log import Clock, MetricLog, device_memory, progress_line
from frcnn_jax.training.state import TrainState
from frcnn_jax.training.stop import Stop, Stopped
from frcnn_jax.training.watch import Watch
from frcnn_jax.types import Variables


class Plan(NamedTuple):
    """When things happen, in steps."""

    total: int
    epoch_of: Callable[[int], float]  # steps done -> epochs done
    rate: Callable[[ArrayLike], jax.Array]  # step -> learning rate
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
    """Trains from `state` to the plan's last step, or until patience ends.

    `batches` begin with that of `state.step`; the next is fetched while a step runs. An
    evaluation cut off is done first. Errors: SaveFailed; NonFinite, Stopped: all saved.
    """
    plan, clock, started, last = rails.plan, Clock(), None, cast(Taken, None)
    done, guard, watch = int(state.step), Guard(rails, train), Watch()
    _evaluate_if_due(state, done, rails)
    while done < plan.total and not exhausted(rails.log.scores(), train.patience):
        # Fetch
        with watch.on(f"the data of step {done + 1}"):
            arrays, data, idle = _fetch(batches, last and last.metrics)
        batch = to_batch(arrays, mesh)

        # Step: wait for the one before, so that at most two are in flight
        before = last
        with watch.on(f"the program of step {done + 1}, compiled once for each canvas"):
            state, metrics = step_fn(state, batch, key)
        done += 1
        last = Taken(done, metrics, arrays)
        with watch.on(f"step {done - 1} on the device"):
            device = _wait(before and before.metrics)
            state = guard.look(before, state)
        clock.count(train.batch_size, idle, data=data, device=device)
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
            final = stopping or done == plan.total
            if final or not guard.holds_back():
                rails.checkpoints.save(state, final=final)
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
        rails.checkpoints.save_best(state, scored[done])


def _evaluate(state: TrainState, done: int, rails: Rails) -> None:
    """Score, log, and keep what is best so far; told to stop, save instead."""
    try:
        found = rails.evaluate(state.best, done)
    except Stopped:
        rails.checkpoints.save(state, final=True)
        rails.checkpoints.wait()
        raise
    rails.log.write(done, _figures(found))
    scored = rails.log.scores()
    if best(scored) == done:
        rails.checkpoints.save_best(state, scored[done])


def best(scores: Mapping[int, float | None]) -> int | None:
    """The step of the highest AP, the first of equal ones; None without any."""
    known = {step: ap for step, ap in scores.items() if ap is not None}
    return max(known, key=known.get) if known else None


def exhausted(scores: Mapping[int, float | None], patience: int) -> bool:
    """Whether the last `patience` APs are all no better than one before; 0 = never.

    An AP of None is below all others. Says so when it is.
    """
    values = [-math.inf if ap is None else ap for _, ap in sorted(scores.items())]
    if not patience or len(values) <= patience:
        return False
    first = values.index(max(values))
    if len(values) - 1 - first < patience:
        return False
    print(
        f"stopping early: AP {values[first]:.4f} of evaluation {first + 1} was not"
        f" bettered in the {patience} after it (train.patience)"
    )
    return True


def _figures(found: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of an evaluation as the log has them, each class's AP too."""
    flat = {f"eval/{k}": v for k, v in found.items() if k != "step"}
    classes = found.get("per_class", {}).items()
    return flat | {f"eval/AP/{name}": row["AP"] for name, row in classes}


def _fetch(batches, metrics):
    """The next batch, and for how long the host and the device waited for it."""
    start = time.perf_counter()
    arrays = next(batches)
    waited = time.perf_counter() - start
    device_idle = metrics is None or metrics["loss"].is_ready()
    return arrays, waited, waited if device_idle else 0.0


def _wait(arrays: Any) -> float:
    """Seconds until the device has these."""
    start = time.perf_counter()
    jax.block_until_ready(arrays)
    return time.perf_counter() - start


def _report(metrics, clock: Clock, plan: Plan, done: int) -> dict[str, float]:
    clock.waited(_wait(metrics))
    values = {name: float(value) for name, value in metrics.items()}
    values |= clock.report() | device_memory()
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
