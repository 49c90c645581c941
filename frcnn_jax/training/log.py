"""What training says: progress lines, metrics.jsonl and .csv, and whom it tells more.

TensorBoard is told where tensorboardX is installed, W&B where `train.wandb` asks.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from PIL import Image

from frcnn_jax.terminal import duration
from frcnn_jax.training.table import Table
from frcnn_jax.training.tracker import Tracker

SHOWN = {
    "loss_rpn_cls": "rpn_cls",
    "loss_rpn_bbox": "rpn_box",
    "loss_cls": "cls",
    "loss_bbox": "box",
}
SCORE = "eval/AP"
WIDEST = 1600  # pixels of a picture for TensorBoard, which keeps them as PNG
LONG_WAIT = 0.1  # share of the time; above it the progress line names the remedy


class MetricLog:
    """Appends numbers to `workdir/metrics.jsonl`, one JSON object a line.

    `workdir/metrics.csv` is the same as a table, see `training/table.py`.
    """

    def __init__(
        self,
        workdir: str | Path,
        start_step: int,
        *,
        quiet: bool = False,
        wandb: str = "",
        settings: Mapping[str, Any] | None = None,
    ):
        """Opens the files; TensorBoard events go to `workdir/tensorboard`.

        Lines of later steps than `start_step` go: the steps will be done again. `quiet`
        writes nothing, for all processes of a run but one. `wandb` is a project of W&B,
        or "", and `settings` what it shows as the run's. Errors: see `Tracker`.
        """
        # First, as it may fail.
        asked = wandb and not quiet
        self._tracker = Tracker(workdir, wandb, settings or {}) if asked else None
        path = Path(workdir) / "metrics.jsonl"
        # Read by every process, so that all know the same scores.
        kept = lines_until(path, start_step)
        self._scores = {x["step"]: x[SCORE] for x in kept if SCORE in x}
        if path.is_file() and not quiet:
            new = path.with_suffix(".tmp")
            new.write_text("".join(json.dumps(line) + "\n" for line in kept))
            new.replace(path)
        # Made from those lines, so that it never knows other steps than they do.
        self._table = None if quiet else Table(path.with_suffix(".csv"), kept)
        self._file: TextIO = open(os.devnull if quiet else path, "a")
        folder = Path(workdir) / "tensorboard"
        self._tensorboard = None if quiet else _tensorboard(folder, start_step)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Records numbers of one step; other values are left out.

        None becomes null, and so do NaN and infinity, which JSON does not have.
        """
        if SCORE in values:
            self._scores[step] = values[SCORE]
        numbers = {k: v for k, v in values.items() if v is None or _is_number(v)}
        numbers = {k: v if _is_finite(v) else None for k, v in numbers.items()}
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        self._file.flush()
        if self._table:
            self._table.write({"step": step, **numbers})
        if self._tracker:
            self._tracker.write(step, numbers)
        if self._tensorboard:
            for name, value in numbers.items():
                if value is not None:
                    self._tensorboard.add_scalar(name, value, step)

    @property
    def shows_pictures(self) -> bool:
        """Whether anyone looks at pictures: TensorBoard's log is on."""
        return self._tensorboard is not None

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """Shows [H, W, 3] uint8 in TensorBoard, shrunk if very wide; or nowhere."""
        if self._tensorboard:
            drawn = Image.fromarray(picture)
            drawn.thumbnail((WIDEST, WIDEST))
            self._tensorboard.add_image(name, np.array(drawn), step, dataformats="HWC")

    def scores(self) -> dict[int, float | None]:
        """{step: AP} of the evaluations so far; None where AP does not exist."""
        return dict(self._scores)

    def close(self) -> None:
        """Writes what is left."""
        self._file.close()
        for other in (self._table, self._tensorboard, self._tracker):
            if other:
                other.close()


def lines_until(path: Path, step: float) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl up to a step; [] without the file.

    One that a kill cut short is left out, and one that is damaged told as well.
    """
    if not path.is_file():
        return []
    kept, lines = [], path.read_text(errors="replace").splitlines()
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
            if line["step"] <= step:
                kept.append(line)
        except (ValueError, TypeError, KeyError):
            if number < len(lines):
                print(f"{path}: line {number} is damaged and left out")
    return kept


def device_memory() -> dict[str, float]:
    """The most memory that the first device has held, in GiB; {} where none counts."""
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return {} if peak is None else {"memory_gib": peak / 2**30}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _tensorboard(folder: Path, start_step: int):
    """Writes to a file of its own; events of steps after this one are hidden."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(
        str(folder),
        purge_step=start_step + 1,
        flush_secs=10,  # not much is lost by a kill
        filename_suffix=f".{start_step}",  # else named by the second alone
    )


def progress_line(
    step: int, total: int, values: Mapping[str, float], *, seconds_left: float
) -> str:
    """One greppable line: where we are, losses, rate, speed, waiting, time left."""
    parts = " ".join(f"{short} {values[name]:.3f}" for name, short in SHOWN.items())
    speed = (
        f"{values['images_per_s']:.1f} img/s" if values["images_per_s"] else "compiled"
    )
    scale = ""
    if "loss_scale" in values:
        skipped = f"skipped {values['skipped_steps']:.0f}"
        scale = f"loss scale {values['loss_scale']:g} ({skipped})  "
    wait = f"data wait {values['data_wait']:.0%}"
    if values["data_wait"] > LONG_WAIT:
        wait += " (slow data, see docs/own_data.md)"
    return (
        f"step {step:>{len(str(total))}}/{total}  epoch {values['epoch']:.2f}  "
        f"loss {values['loss']:.4f} ({parts})  lr {values['lr']:.2e}  "
        f"{scale}"
        f"{speed}  {wait}  "
        f"eta {duration(seconds_left)}"
    )


class Clock:
    """Time and images since the last report, and how long the device stood idle."""

    def __init__(self):
        """Starts now."""
        self.reset()

    def reset(self) -> None:
        """Begins a new interval."""
        self._start, self._images, self._idle = time.perf_counter(), 0, 0.0
        self._steps, self._data, self._device = 0, 0.0, 0.0

    def count(
        self, images: int, idle: float, *, data: float = 0.0, device: float = 0.0
    ) -> None:
        """Adds a step of so many images, before which the device idled for seconds.

        `data` and `device` are the seconds in which the host waited for either.
        """
        self._images += images
        self._idle += idle
        self._steps += 1
        self._data += data
        self._device += device

    def waited(self, seconds: float) -> None:
        """Adds seconds in which the host waited for the device outside a step."""
        self._device += seconds

    def report(self) -> dict[str, float]:
        """Speed, waiting and where the host's time went in the interval.

        images_per_s; data_wait: share of time in which the device had nothing to do;
        seconds a step waiting for data (data_s) and device (device_s), and for all
        else, such as copies, starting programs, the log and checkpoints (host_s).
        """
        elapsed = max(time.perf_counter() - self._start, 1e-9)
        speed = self._images / elapsed
        steps = max(self._steps, 1)
        rest = max(elapsed - self._data - self._device, 0.0)
        return {
            "images_per_s": speed,
            "data_wait": min(self._idle / elapsed, 1.0),
            "data_s": self._data / steps,
            "device_s": self._device / steps,
            "host_s": rest / steps,
        }
