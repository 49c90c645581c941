import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from frcnn_jax import config
from frcnn_jax.training import distributed, optimizer, step
from frcnn_jax.training.state import create
from frcnn_jax.types import Detector
from tests.training.conftest import arrays, init, loss, predict

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


def losses(rows: slice, count: int = 10) -> list[float]:
    """Losses of the linear detector's first steps, by all processes together.

    `rows` are those of the global batch that this process brings.
    """
    mesh, detector = distributed.make_mesh(), Detector(init, loss, predict)
    tx = optimizer.make(config.Train(lr_batch_size=0), lambda step: 0.05)
    state = create(detector.init(jax.random.key(3), None), tx, ())
    state = distributed.replicate(state, mesh)
    take, found = step.make_train_step(detector, tx, (), mesh), []
    for number in range(count):
        own = {name: value[rows] for name, value in arrays(number).items()}
        batch = distributed.to_batch(own, mesh)
        state, metrics = take(state, batch, jax.random.key(0))
        found.append(float(metrics["loss"]))
    return found


PROGRAM = """
import jax, os, signal, sys
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from frcnn_jax import config
from frcnn_jax.data import loader, sources
from frcnn_jax.evaluation import coco, infer
from frcnn_jax.training import distributed
from frcnn_jax.types import Detections
from tests.training.test_distributed import losses
address, rank = sys.argv[1], int(sys.argv[2])
distributed.join(address, 2, rank, lost_after=20)
with distributed.ending_together():
    mesh = distributed.make_mesh()
    fields = "images image_hw scale_xy boxes labels crowd image_id".split()
    arrays = {name: np.arange(4) + 4 * rank for name in fields}
    batch = distributed.to_batch(arrays, mesh)
    total = jax.jit(lambda x: x.sum())(batch.images)
    ids = distributed.to_host(batch.image_id).tolist()
    print(mesh.size, int(distributed.to_host(total)), ids, distributed.is_first())

    # Scoring, by a detector that knows the truth of the images it is given.
    data = config.Data(root=sys.argv[3], max_side=96, eval_short_side=64)
    dataset = sources.load(data, "val", training=False)
    def predict(arrays):
        batch = distributed.to_host(distributed.to_batch(arrays, mesh))
        boxes = batch.boxes / np.tile(batch.scale_xy, 2)[:, None]
        found = Detections(boxes, batch.labels * 0.1, batch.labels)
        return lambda: (found, batch.image_id)
    share = dict(divisor=mesh.size, process_index=rank, process_count=2)
    parts = loader.eval_batches(dataset, data, batch_size=4, **share)
    results = infer.detections(predict, parts, dataset)
    objects = sum(len(record.boxes) for record in dataset.records)
    ap = coco.evaluate(dataset.annotations, results)["AP"]
    print(len(dataset.records), len(results) - objects, round(ap, 6))

    rows = slice(4 * rank, 4 * rank + 4)
    print(*losses(rows))
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    losses(rows)
"""


def pair(program, *words):
    """Two processes of a program; it gets an address, its number and these words."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, address, str(rank), *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def test_two_processes_are_one_machine_until_one_is_killed(shapes_root):
    """Each brings 4 rows; both know all 8, only the first prints; it ends soon.

    Six images in batches of four, of two buckets, are scored once each.
    """
    processes = pair(PROGRAM, shapes_root)
    (out, said), (other, _) = [p.communicate(timeout=180) for p in processes]
    codes = [process.returncode for process in processes]
    assert codes == [distributed.LOST_CODE, -signal.SIGKILL], said
    lines = [line for line in out.splitlines() if "[Gloo]" not in line]
    assert lines[0] == "4 28 [0, 1, 2, 3, 4, 5, 6, 7] True"
    assert lines[1] == "6 0 1.0"
    found = [float(number) for number in lines[2].split()]
    np.testing.assert_allclose(found, losses(slice(None)), rtol=1e-5)
    assert [line for line in other.splitlines() if "[Gloo]" not in line] == []
    assert "error: process 0 of 2 lost another process" in said
    assert "Start all of them again with the same command" in said


SURVIVES = """
import jax, os, signal, sys, time
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 1)
import jax.numpy as jnp
from pathlib import Path
from frcnn_jax.training import distributed, stop
from frcnn_jax.training.checkpoint import Checkpoints
from frcnn_jax.training.state import TrainState
address, rank, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
distributed.join(address, 2, rank, lost_after=20)
sys.stdout = sys.stderr  # both are to tell
mesh = distributed.make_mesh()

def state(number):
    a, step, skipped = jnp.full(3, number + 0.5), jnp.int32(number), jnp.int32(0)
    state = TrainState(step, {"params": {"a": a}}, {"b": a}, skipped)
    return computed(distributed.replicate(state, mesh))

computed = jax.jit(lambda state: jax.tree.map(lambda x: x + 0, state))  # as steps do

with distributed.ending_together():
    with Checkpoints(folder, keep=3) as saved:
        for number in (1, 2, 3):
            saved.save(state(number))
            saved.wait()
    if rank == 0:
        for file in folder.glob("checkpoints/3/**/d/*"):
            file.write_bytes(file.read_bytes()[:50])
    distributed.wait_for_all("damage is done")
    with Checkpoints(folder, keep=3) as saved:
        time.sleep(rank)  # what the first moves away, the second has yet to read
        found = saved.restore(state(0))
        first = float(found.variables["params"]["a"][0])
        print("restored", int(found.step), first, "newest", saved.latest)
        saved.save(state(3))  # where one still counts the damaged one, both wait here
    with Checkpoints(folder, keep=3) as saved:
        print("again", int(saved.restore(state(0)).step))
        with stop.Stop() as told:
            for number in range(1, 40):
                if rank == 1 and number == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                if told.now(number):
                    saved.save(state(number))
                    saved.wait()
                    time.sleep(rank)  # the first, which keeps both together, waits
                    raise told.error(f"after step {number}")
"""


def test_two_processes_survive_damage_and_a_signal_to_one(tmp_path):
    """One moves the damaged checkpoint, both use the one before; both stop at once."""
    processes = pair(SURVIVES, tmp_path)
    said = [process.communicate(timeout=180)[1] for process in processes]
    assert [process.returncode for process in processes] == [143, 143], said
    for text in said:
        assert "cannot be used and is set aside, step 3: " in text
        assert "another process" not in text
        assert "restored 2 2.5 newest 2\n" in text and "again 3\n" in text
        assert "stopped by SIGTERM after step 10" in text
    assert [p.name for p in (tmp_path / "damaged").iterdir()] == ["3"]
    kept = {p.name for p in (tmp_path / "checkpoints").iterdir() if p.is_dir()}
    assert kept == {"2", "3", "10"}


@pytest.mark.parametrize("given", [("host:1", 2, None), (None, 2, 0), (None, None, 1)])
def test_processes_are_named_by_all_three_or_by_none(given):
    with pytest.raises(ValueError, match="all of --coordinator=HOST:PORT"):
        distributed.join(*given)


def test_errors_of_one_process_pass_as_they_are():
    with pytest.raises(OSError, match="full"), distributed.ending_together():
        raise OSError("full")
