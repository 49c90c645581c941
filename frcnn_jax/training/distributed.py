"""Devices and processes: the mesh, and arrays on it."""

import os
import sys
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from frcnn_jax.types import Batch

AXIS = "data"


def join() -> None:
    """Joins the other processes of a TPU pod slice or a SLURM job.

    Must come before anything else touches a device. Elsewhere JAX_COORDINATOR_ADDRESS,
    JAX_NUM_PROCESSES and JAX_PROCESS_ID say where and who. Only process 0 prints.
    """
    names = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    count, index = (os.environ.get(name) for name in names)
    if count is None:
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(num_processes=int(count), process_id=int(index))
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")


def is_first() -> bool:
    """Whether this is the process that writes shared files."""
    return jax.process_index() == 0


def make_mesh(devices: int = 0) -> Mesh:
    """One axis "data" over all devices, or over the first `devices` of them."""
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
