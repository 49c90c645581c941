"""What happens when a loss or gradient is not finite.

The step itself had no effect (see `step`). Here it is named: step, terms, images; its
batch goes to a file that tools/replay.py runs again; and after several in a row
training stops, or goes back to the last checkpoint once.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from frcnn_jax import config
from frcnn_jax.training.state import TrainState

MAX_DUMPS = 20  # files kept of one run
NAMED = 8  # images in a message


class NonFinite(ArithmeticError):
    """Losses or gradients were not finite too often; the state is saved."""

    exit_code = 3


class Taken(NamedTuple):
    """A step that was started."""

    step: int
    metrics: dict[str, jax.Array]
    arrays: dict[str, np.ndarray]  # its batch, this process's rows


class Guard:
    """Counts steps in a row that were not finite."""

    def __init__(self, rails: Any, train: config.Train):
        """Starts with none; `rails` are the loop's."""
        self._rails, self._train = rails, train
        self._looked, self._in_a_row = 0, 0

    def look(self, taken: Taken | None, state: TrainState) -> TrainState:
        """Waits for a step and acts on it; gives the state to go on with.

        Errors: NonFinite.
        """
        if taken is None:
            return state
        jax.block_until_ready(taken.metrics)
        if taken.step <= self._looked:
            return state
        self._looked = taken.step
        # With a loss scale an overflow is no fault until halving has not helped.
        scale = taken.metrics.get("loss_scale")
        if bool(taken.metrics["finite"]) or (scale is not None and float(scale) >= 1):
            self._in_a_row = 0
            return state
        self._in_a_row += 1
        told = self._tell(taken)
        if self._in_a_row < self._train.max_nonfinite:
            return state
        checkpoints = self._rails.checkpoints
        checkpoints.wait()
        if self._may_go_back() and checkpoints.latest is not None:
            return self._back(state)
        checkpoints.save(state)
        checkpoints.wait()
        raise NonFinite(
            f"{told}; that were {self._in_a_row} steps in a row (train.max_nonfinite)."
            " Their parameters are saved as they were before. Run a batch again with"
            f" tools/replay.py {self._rails.dumps}/FILE, look at the boxes of these"
            " images, or lower train.lr"
        )

    def holds_back(self) -> bool:
        """Whether a checkpoint now would be the one that a rollback must not find."""
        return bool(self._in_a_row) and self._may_go_back()

    def _may_go_back(self) -> bool:
        """Whether to: once in a run, however often that is started."""
        once = not self._rails.checkpoints.rollbacks
        return self._train.on_nonfinite == "rollback" and once

    def _tell(self, taken: Taken) -> str:
        values = {name: float(value) for name, value in taken.metrics.items()}
        broken = [name for name, value in values.items() if not math.isfinite(value)]
        names = self._rails.name_rows(taken.arrays["image_id"])
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        text = (
            f"step {taken.step} is not finite and has no effect: {', '.join(broken)};"
            f" images {', '.join(names[:NAMED])}{more}"
        )
        print(f"{text}; batch kept in {self._dump(taken)}", flush=True)
        return text

    def _dump(self, taken: Taken) -> Path | str:
        folder = self._rails.dumps
        folder.mkdir(exist_ok=True, parents=True)
        if len(list(folder.glob("*.npz"))) >= MAX_DUMPS:
            return f"no file, for {folder} has {MAX_DUMPS}"
        name = f"step_{taken.step}"
        if jax.process_count() > 1:
            name += f"_process_{jax.process_index()}"
        file, arrays = folder / f"{name}.npz", dict(taken.arrays, step=taken.step)
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        return file

    def _back(self, state: TrainState) -> TrainState:
        """The last checkpoint's parameters, going on with the data from here."""
        self._in_a_row, checkpoints = 0, self._rails.checkpoints
        found = checkpoints.restore(state)
        checkpoints.rollbacks += 1
        print(
            f"back to the parameters of step {int(found.step)}"
            ' (train.on_nonfinite "rollback"), once',
            flush=True,
        )
        # The steps since then count as without effect: the rate follows the optimiser.
        lost = state.step - found.step
        back = found._replace(step=state.step, skipped=found.skipped + lost)
        checkpoints.save(back)  # a run killed now must not go back again
        return back
