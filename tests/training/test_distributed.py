import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from frcnn_jax.training import distributed

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("asked", "got"), [(0, 8), (1, 1), (3, 3), (8, 8)])
def test_the_mesh_takes_the_first_devices(asked, got):
    mesh = distributed.make_mesh(asked)
    assert mesh.shape == {"data": got}
    assert list(mesh.devices) == jax.devices()[:got]


def test_a_batch_is_split_by_images(arrays_of):
    arrays = arrays_of(0)
    batch = distributed.to_batch(arrays, distributed.make_mesh(4))
    for name, value in batch._asdict().items():
        assert value.sharding.spec == P("data")
        np.testing.assert_array_equal(value, arrays[name])
    shards = [shard.data.shape[0] for shard in batch.images.addressable_shards]
    assert shards == [2] * 4


def test_a_batch_that_does_not_divide_is_an_error(arrays_of):
    with pytest.raises(ValueError, match="batch of 8 .* 3 devices.*a multiple of 3"):
        distributed.to_batch(arrays_of(0), distributed.make_mesh(3))


def test_replicas_and_back():
    tree = {"a": np.arange(3), "b": [np.float32(2)]}
    spread = distributed.replicate(tree, distributed.make_mesh(8))
    assert len(spread["a"].addressable_shards) == 8
    assert spread["a"].is_fully_replicated
    jax.tree.map(np.testing.assert_array_equal, distributed.to_host(spread), tree)


def test_one_process_is_the_first():
    assert distributed.is_first()


PROGRAM = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from frcnn_jax import config
from frcnn_jax.data import loader, sources
from frcnn_jax.evaluation import coco, infer
from frcnn_jax.training import distributed
from frcnn_jax.types import Detections
distributed.join()
mesh = distributed.make_mesh()
rank = jax.process_index()
fields = "images image_hw scale_xy boxes labels crowd image_id".split()
arrays = {name: np.arange(4) + 4 * rank for name in fields}
batch = distributed.to_batch(arrays, mesh)
total = jax.jit(lambda x: x.sum())(batch.images)
ids = distributed.to_host(batch.image_id).tolist()
print(mesh.size, int(distributed.to_host(total)), ids, distributed.is_first())

# Scoring, by a detector that knows the truth of the images it is given.
data = config.Data(root=sys.argv[1], max_side=96, eval_short_side=64)
dataset = sources.load(data, "val", training=False)
def predict(arrays):
    batch = distributed.to_host(distributed.to_batch(arrays, mesh))
    boxes = batch.boxes / np.tile(batch.scale_xy, 2)[:, None]
    found = Detections(boxes, batch.labels * 0.1, batch.labels)
    return lambda: (found, batch.image_id)
parts = loader.eval_batches(
    dataset, data, batch_size=4, process_index=rank, process_count=2
)
results = infer.detections(predict, parts, dataset)
objects = sum(len(record.boxes) for record in dataset.records)
ap = coco.evaluate(dataset.annotations, results)["AP"]
print(len(dataset.records), len(results) - objects, round(ap, 6))
"""


def test_two_processes_are_one_machine(shapes_root):
    """Each brings 4 rows; both know all 8, only the first prints.

    Six images in batches of four, of two buckets, are scored once each.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    own = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    own |= {"PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(shapes_root)],
            env={**os.environ, **own, "JAX_PROCESS_ID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=180) for process in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    own = [[x for x in out.splitlines() if "[Gloo]" not in x] for out, _ in outputs]
    assert own == [["4 28 [0, 1, 2, 3, 4, 5, 6, 7] True", "6 0 1.0"], []]
