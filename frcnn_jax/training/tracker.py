"""Weights & Biases, where `train.wandb` names a project; otherwise nothing of it."""

import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frcnn_jax.training.devices import first_line

IDENTITY = "wandb_id.txt"  # in the workdir: a continued run is the same run there


def check(project: str) -> None:
    """Nothing for "", else that the package is there, before what takes long.

    Errors: ValueError with the way out.
    """
    if project:
        _package(project)


class Tracker:
    """Sends numbers of a run to a project, or to a folder with WANDB_MODE=offline."""

    def __init__(self, workdir: str | Path, project: str, settings: Mapping[str, Any]):
        """Begins the run, or continues that of the workdir.

        Errors: ValueError for a missing package or a start that failed.
        """
        package, workdir = _package(project), Path(workdir)
        file = workdir / IDENTITY
        if not file.is_file():
            file.write_text(uuid.uuid4().hex[:12] + "\n")
        try:
            self._run = package.init(
                project=project,
                name=workdir.resolve().name,
                id=file.read_text().strip(),
                resume="allow",
                dir=str(workdir),
                config=dict(settings),
            )
        except Exception as error:  # of no common class, and all end the same way
            raise ValueError(
                f"train.wandb is {project!r}, and W&B did not start"
                f" ({first_line(error)}): log in with `wandb login`, set"
                " WANDB_MODE=offline, or leave the field empty"
            ) from error
        # What W&B has of steps that are done again stays; it refuses earlier steps.
        step = getattr(self._run, "step", 0)
        self._from = step if isinstance(step, int) else 0

    def write(self, step: int, numbers: Mapping[str, float | None]) -> None:
        """Sends the numbers of one step; None is left out."""
        if step >= self._from:
            found = {k: v for k, v in numbers.items() if v is not None}
            self._run.log(found, step=step)

    def close(self) -> None:
        """Ends the run there: as failed, if an error is on its way through here."""
        self._run.finish(exit_code=0 if sys.exception() is None else 1)


def _package(project: str):
    try:
        import wandb
    except ImportError as error:
        raise ValueError(
            f"train.wandb is {project!r}, but the package cannot be imported ({error}):"
            " pip install wandb, or leave the field empty"
        ) from error
    if not hasattr(wandb, "init"):  # a folder of that name where Python looks first
        raise ValueError(
            f"train.wandb is {project!r}, but `wandb` is the folder"
            f" {', '.join(getattr(wandb, '__path__', []))} and not the package: pip"
            " install wandb, or rename the folder"
        )
    return wandb
