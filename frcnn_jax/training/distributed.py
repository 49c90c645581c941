"""Devices and processes: the mesh, and arrays on it."""

import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from frcnn_jax.training.devices import first_line
from frcnn_jax.types import Batch

AXIS = "data"
SHOWN = 120  # characters of what a broken collective says
LOST_CODE = 75  # "temporary failure, try again" of sysexits.h


def join(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    lost_after: int = 100,
) -> None:
    """Joins the other processes of a run; must come before a device is touched.

    Without arguments JAX finds them on a TPU pod slice and in a SLURM job. Elsewhere
    the address HOST:PORT of process 0, the number of processes and the own number say
    who they are, as arguments or as JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID. A process that is silent for `lost_after` seconds ends all others.
    Only process 0 prints. Errors: ValueError for some of the three without the rest.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given: list[Any] = [
        os.environ.get(name) if value is None else value
        for name, value in zip(names, (coordinator, count, index), strict=True)
    ]
    if any(x is not None for x in given) and None in given:
        raise ValueError(
            "processes find each other by all of --coordinator=HOST:PORT,"
            f" --num_processes=N and --process_id=I, or {', '.join(names)}; or by none"
            " of them, on a TPU pod slice or in a SLURM job"
        )
    address = given[0]
    numbers = [None if x is None else int(x) for x in given[1:]]
    try:
        jax.distributed.initialize(
            address, numbers[0], numbers[1], heartbeat_timeout_seconds=lost_after
        )
    except ValueError as error:
        raise ValueError(
            f"--distributed: {error} Neither a TPU pod slice nor a SLURM job is here;"
            " name --coordinator=HOST:PORT, --num_processes=N and --process_id=I"
        ) from error
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")


# Seconds that the first process waits before it ends. It keeps the others together: one
# that is still ending when the first is gone is aborted by JAX, with a stack trace and
# another exit code.
LAST_OUT_S = 2.0
LOST = re.compile("gloo|nccl|heartbeat|coordination|connection (reset|closed)", re.I)


@contextmanager
def ending_together() -> Iterator[None]:
    """An error in one of several processes ends this one soon, with a message.

    Leaving in the usual way would wait for processes that are gone or still compute.
    The others notice: by a broken connection at once, or else by missing heartbeats.
    The exit code is the error's own, 1 without; 75 (try again) for a lost process.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        who = f"process {jax.process_index()} of {jax.process_count()}"
        code = getattr(error, "exit_code", 1)
        if LOST.search(str(error)):
            code = LOST_CODE
            print(
                f"error: {who} lost another process, whose own log tells why"
                f" ({first_line(error)[:SHOWN]}). Start all of them again with the same"
                " command: the run continues from its newest checkpoint",
                file=sys.stderr,
            )
        else:
            if not isinstance(error, ValueError | OSError | ArithmeticError):
                traceback.print_exc()
            print(f"error: {who}: {error}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        if is_first():
            time.sleep(LAST_OUT_S)
        os._exit(code)


def is_first() -> bool:
    """Whether this is the process that writes shared files."""
    return jax.process_index() == 0


def all_agree(here: bool) -> bool:
    """Whether something holds in every process; all have to ask, and wait."""
    if jax.process_count() == 1:
        return here
    return bool(multihost_utils.process_allgather(np.int32(here)).all())


def wait_for_all(what: str) -> None:
    """Waits until every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def make_mesh(devices: int = 0) -> Mesh:
    """One axis "data" over all devices, or over the first `devices` of them.

    Errors: a part of the devices of several processes.
    """
    if devices and jax.process_count() > 1:
        raise ValueError("--devices=N is for one process; choose hosts instead")
    chosen = jax.devices()[: devices or None]
    return Mesh(np.asarray(chosen), (AXIS,), axis_types=(AxisType.Auto,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies of every array on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def to_batch(arrays: dict[str, np.ndarray], mesh: Mesh) -> Batch:
    """This process's rows of the global batch, sent to its devices.

    `arrays` is keyed by the fields of `Batch`. Errors: a batch that does not divide by
    the number of devices.
    """
    local = len(arrays["image_id"])
    devices = mesh.local_mesh.size
    if local % devices:
        raise ValueError(
            f"a batch of {local} images per process does not divide by its {devices}"
            f" devices; choose a multiple of {devices}"
        )
    sharding = NamedSharding(mesh, P(AXIS))
    put = jax.make_array_from_process_local_data
    return Batch(**{name: put(sharding, value) for name, value in arrays.items()})


def to_host(tree: Any) -> Any:
    """The global arrays as numpy, on every process."""
    if jax.process_count() == 1:
        return jax.tree.map(np.asarray, tree)
    return multihost_utils.process_allgather(tree, tiled=True)
