import dataclasses
import gc
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from frcnn_jax import config
from frcnn_jax.data import batching, loader
from frcnn_jax.data.augment import Drawn
from frcnn_jax.data.records import Dataset, Record
from frcnn_jax.data.transforms import BadImage, decode

WIDE, TALL = (30, 60), (50, 40)  # height, width


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Fourteen pictures, nine wide and five tall, with 0 to 3 boxes."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    records = []
    for i in range(14):
        h, w = TALL if i % 3 == 1 else WIDE
        path = folder / f"{i:02d}.png"
        cv2.imwrite(str(path), rng.integers(0, 256, (h, w, 3), np.uint8))
        n = i % 4
        corner = rng.uniform(0, 12, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(2, 17, (n, 2))], 1)
        records.append(
            Record(
                path,
                1000 + i,
                w,
                h,
                boxes.astype(np.float32),
                rng.integers(1, 4, n).astype(np.int32),
                np.zeros(n, bool),
            )
        )
    return Dataset("train", tuple(records), ("a", "b", "c"), (1, 2, 3), {}, {})


DATA = config.Data(
    short_sides=(32, 48), short_side_mode="range", max_side=80, eval_short_side=40
)


def train(dataset, steps, data=DATA, batch_size=4, seed=7, **options):
    batches = loader.train_batches(
        dataset, data, batch_size=batch_size, seed=seed, **options
    )
    result = list(itertools.islice(batches, steps))
    batches.close()
    return result


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def spoil(dataset, folder, rows, content=b"<!DOCTYPE html>"):
    """Return the data set with some files replaced, by web pages unless told."""
    records = list(dataset.records)
    for row in rows:
        path = Path(folder) / f"bad{row}.jpg"
        path.write_bytes(content)
        records[row] = records[row]._replace(path=path)
    return dataclasses.replace(dataset, records=tuple(records))


# ---- training


def test_batches_do_not_depend_on_threads(pictures):
    one = train(pictures, 12, dataclasses.replace(DATA, threads=0))
    for threads, prefetch in ((1, 1), (8, 8), (8, 2)):
        data = dataclasses.replace(DATA, threads=threads, prefetch=prefetch)
        assert_same(train(pictures, 12, data), one)


@pytest.mark.parametrize("start", [1, 5, 9])
def test_starting_later_equals_skipping(pictures, start):
    whole = train(pictures, 12)
    assert_same(train(pictures, 12 - start, start_step=start), whole[start:])


def test_processes_share_the_global_batch(pictures):
    whole = train(pictures, 6)
    parts = [train(pictures, 6, process_index=p, process_count=2) for p in range(2)]
    joined = [
        {k: np.concatenate([a[k], b[k]]) for k in a}
        for a, b in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)


def test_batches_follow_the_schedule_and_hold_the_pixels(pictures):
    data = dataclasses.replace(DATA, short_sides=(30,), flip=0.0, max_side=200)
    batches = loader.train_batches(pictures, data, batch_size=4, seed=0)
    assert batches.max_boxes == 8 and len(batches.buckets) == 2
    assert batches.bad_images == batches.odd_images == 0
    for step in range(5):
        batch, plan = next(batches), batches.schedule[step]
        np.testing.assert_array_equal(batch["image_id"], plan.rows)
        assert batch["images"].shape[1:3] == batches.buckets[plan.bucket]
        for i, row in enumerate(plan.rows):
            record = pictures.records[row]
            n = len(record.labels)
            np.testing.assert_array_equal(batch["labels"][i, :n], record.labels)
            scale = np.tile(batch["scale_xy"][i], 2)
            np.testing.assert_allclose(
                batch["boxes"][i, :n] / scale, record.boxes, rtol=1e-5
            )
            if record.height == 30:  # already at the wanted size
                np.testing.assert_array_equal(
                    batch["images"][i, :30, :60], decode(record.path)
                )
    batches.close()


def test_augmentation_varies_and_boxes_follow(pictures):
    batches = train(pictures, 40)
    heights = {tuple(hw) for b in batches for hw in b["image_hw"]}
    assert len(heights) > 15
    scales = np.concatenate([b["scale_xy"] for b in batches])
    assert scales.min() >= 32 / 40 - 0.02 and scales.max() <= 80 / 60 + 0.02
    for b in batches:
        valid = b["labels"] > 0
        limit = np.tile(b["image_hw"][:, None, ::-1], (1, 1, 2))
        assert (b["boxes"] <= limit)[valid].all() and (b["boxes"] >= 0).all()
        assert (b["boxes"][..., 2:] > b["boxes"][..., :2])[valid].all()
        assert (b["boxes"][~valid] == 0).all()


def test_a_set_smaller_than_its_batch(pictures):
    tiny = dataclasses.replace(pictures, records=pictures.records[:2])
    batches = train(tiny, 4, batch_size=5)
    assert [len(b["image_id"]) for b in batches] == [5] * 4
    assert {int(i) for b in batches for i in b["image_id"]} == {0, 1}


@pytest.mark.parametrize(("size", "count"), [(5, 2), (0, 1), (2, 4)])
def test_batch_sizes_must_divide(pictures, size, count):
    with pytest.raises(ValueError, match="multiple of their number"):
        train(pictures, 1, batch_size=size, process_count=count)


def test_one_pixel_and_thread_thin_images_load(tmp_path):
    records = []
    for i, (h, w) in enumerate([(1, 1), (300, 2), (2, 300)]):
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), np.full((h, w, 3), 9, np.uint8))
        none = np.zeros(0, np.int32)
        boxes = np.zeros((0, 4), np.float32)
        records.append(Record(path, i, w, h, boxes, none, none.astype(bool)))
    thin = Dataset("train", tuple(records), ("a",), (1,), {}, {})
    for batch in train(thin, 6, batch_size=2):
        assert (batch["image_hw"] >= 1).all() and (batch["labels"] == 0).all()


# ---- scoring


@pytest.mark.parametrize("count", [1, 2, 4])
def test_scoring_yields_every_record_once(pictures, count):
    parts = [
        loader.eval_batches(
            pictures, DATA, batch_size=4, process_index=p, process_count=count
        )
        for p in range(count)
    ]
    listed = [list(part) for part in parts]
    shapes = [[b["images"].shape for b in batches] for batches in listed]
    assert all(s == shapes[0] and len(s) == len(parts[0]) for s in shapes)
    ids = np.concatenate([b["image_id"] for batches in listed for b in batches])
    assert sorted(ids[ids >= 0].tolist()) == list(range(14))
    assert len(ids) == sum(len(plan.rows) for plan in parts[0].plans)
    for b in itertools.chain(*listed):
        filler = b["image_id"] < 0
        assert not b["images"][filler].any() and not b["labels"][filler].any()
        assert (b["image_hw"][filler] == b["images"].shape[1:3]).all()
        assert (b["scale_xy"][filler] == 1).all()
        real = b["image_hw"][~filler]
        assert (real.min(1) == 40).all()


def test_scoring_repeats_and_never_mirrors(pictures):
    batches = loader.eval_batches(
        pictures, dataclasses.replace(DATA, flip=1.0), batch_size=4
    )
    assert_same(list(batches), list(batches))
    for batch in batches:
        for i, row in enumerate(batch["image_id"]):
            if row >= 0 and len(pictures.records[row].boxes):
                np.testing.assert_allclose(
                    batch["boxes"][i, 0] / np.tile(batch["scale_xy"][i], 2),
                    pictures.records[row].boxes[0],
                    rtol=1e-5,
                )


# ---- bad images


def test_bad_images_stop_the_run_by_name(pictures, tmp_path):
    bad = spoil(pictures, tmp_path, [3])
    with pytest.raises(BadImage, match="bad3.jpg.*DOCTYPE.*image id 1003.*skip"):
        train(bad, 20)
    with pytest.raises(BadImage, match="bad3.jpg"):
        list(loader.eval_batches(bad, DATA, batch_size=4))
    cut = spoil(pictures, tmp_path, [3], cut_jpeg())
    with pytest.raises(BadImage, match="bad3.jpg: truncated JPEG.*image id 1003"):
        train(cut, 20)


def cut_jpeg():
    noise = np.random.default_rng(0).integers(0, 256, (*WIDE, 3), np.uint8)
    whole = cv2.imencode(".jpg", noise)[1].tobytes()
    return whole[: len(whole) // 2]


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", cut_jpeg()])
def test_skipping_takes_the_next_of_the_same_bucket(pictures, tmp_path, content):
    bad = spoil(pictures, tmp_path, [3, 5], content)  # wide: 0 2 3 5 6 8 9 11 12
    data = dataclasses.replace(DATA, on_bad_image="skip", threads=4)
    batches = loader.train_batches(bad, data, batch_size=4, seed=7)
    mine = list(itertools.islice(batches, 10))
    for step, batch in enumerate(mine):
        rows = batches.schedule[step].rows
        expected = [6 if row in (3, 5) else row for row in rows]
        assert batch["image_id"].tolist() == expected
    assert batches.bad_images == 2
    batches.close()
    assert_same(train(bad, 10, dataclasses.replace(data, threads=0)), mine)


def test_skipping_ends_when_nothing_can_be_read(pictures, tmp_path):
    bad = spoil(pictures, tmp_path, range(14))
    data = dataclasses.replace(DATA, on_bad_image="skip")
    with pytest.raises(BadImage, match="none of the"):
        train(bad, 1, data)


def test_scoring_turns_bad_images_into_filler(pictures, tmp_path):
    bad = spoil(pictures, tmp_path, [3, 4])
    data = dataclasses.replace(DATA, on_bad_image="skip")
    batches = loader.eval_batches(bad, data, batch_size=4)
    ids = np.concatenate([b["image_id"] for b in batches])
    assert sorted(ids[ids >= 0].tolist()) == [i for i in range(14) if i not in (3, 4)]
    assert batches.bad_images == 2


def test_unknown_policy(pictures):
    with pytest.raises(ValueError, match="on_bad_image is 'ignore'"):
        train(pictures, 1, dataclasses.replace(DATA, on_bad_image="ignore"))


def test_wrong_sizes_are_counted_or_refused(pictures):
    records = list(pictures.records)
    records[0] = records[0]._replace(width=120, height=60)  # row 0 has no boxes
    odd = dataclasses.replace(pictures, records=tuple(records))
    batches = loader.eval_batches(odd, DATA, batch_size=4)
    list(batches)
    assert batches.odd_images == 1
    records[0] = records[0]._replace(width=40, height=50)
    odd = dataclasses.replace(pictures, records=tuple(records))
    with pytest.raises(BadImage, match="00.png.*40x50.*correct width and height"):
        list(loader.eval_batches(odd, DATA, batch_size=4))


# ---- prediction


def test_a_bare_picture_becomes_a_sample(pictures):
    samples = [
        loader.image_sample(decode(record.path), DATA, Drawn(DATA.eval_short_side))
        for record in pictures.records[:3]
    ]
    samples = [sample._replace(image_id=i) for i, sample in enumerate(samples)]
    sizes = [s.image.shape[:2] for s in samples]
    assert sizes == [(40, 80), (50, 40), (40, 80)]
    buckets = batching.choose_buckets(sizes, DATA, short_side=DATA.eval_short_side)
    assert buckets == ((64, 96), (64, 64))
    batch = batching.collate([*samples, None], buckets[0], 8)
    np.testing.assert_array_equal(batch["image_id"], [0, 1, 2, -1])
    original = batch["image_hw"][:3] / batch["scale_xy"][:3, ::-1]
    np.testing.assert_allclose(original, [WIDE, TALL, WIDE], rtol=1e-6)
    assert not batch["labels"].any()


# ---- the process


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_epochs(pictures):
    """A few batches stay in flight; kept, these would take eight times more."""
    data = dataclasses.replace(DATA, threads=2, prefetch=2)
    batches = loader.train_batches(pictures, data, batch_size=4, seed=7)

    def resident():
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    for _ in range(100):
        size = next(batches)["images"].nbytes
    before, count = resident(), 600
    for _ in range(count):
        next(batches)
    grown = resident() - before
    batches.close()
    assert grown < count * size / 8, (grown, count * size)


def small_set(root, name, picture, boxes=()):
    """Writes a COCO folder of one picture (Pillow's), each box xywh."""
    (root / "annotations").mkdir()
    (root / "images").mkdir()
    picture.save(root / "images" / name)
    w, h = picture.size
    listed = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": box}
        for i, box in enumerate(boxes, start=1)
    ]
    content = {
        "images": [{"id": 1, "file_name": name, "width": w, "height": h}],
        "annotations": listed,
        "categories": [{"id": 1, "name": "a"}],
    }
    (root / "annotations" / "train.json").write_text(json.dumps(content))


def in_child(code, root):
    done = subprocess.run(
        [sys.executable, "-c", code, str(root)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# The kernel's own mark of this process: getrusage in a child begins with that of the
# parent. Each mode is loaded after what both need.
PEAKS = """
import sys
import grain
from frcnn_jax import config
from frcnn_jax.data import loader, sources

def peak():
    with open("/proc/self/status") as lines:
        return next(int(x.split()[1]) for x in lines if x.startswith("VmHWM")) / 1000

data = config.Data(root=sys.argv[1], val="train")
dataset = sources.load(data, "train", True)
for data.exact_decode in (False, True):
    before = peak()
    (batch,) = loader.eval_batches(dataset, data, batch_size=1)
    shown, box = batch["images"], batch["boxes"][0, 0]
    print(peak() - before, *shown.shape, shown.min(), shown.max(), *box)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux")
def test_a_hundred_megapixels_fit_into_twice_their_memory(tmp_path):
    """300 MB of pixels; in part at an eighth of each side, 5 MB."""
    picture = Image.new("L", (10_000, 10_000), 7)
    small_set(tmp_path, "huge.jpg", picture, [[0, 2500, 5000, 7500]])
    lines = [line.split() for line in in_child(PEAKS, tmp_path).splitlines()]
    for ceiling, (grown, *shown) in zip((60, 700), lines, strict=True):
        assert float(grown) < ceiling  # MB
        assert shown == "1 800 800 3 7 7 0.0 200.0 400.0 800.0".split()


def test_abandoned_iterators_do_not_keep_the_process_alive(pictures, tmp_path):
    code = (
        "import sys; from frcnn_jax import config; from frcnn_jax.data import sources,"
        " loader; d = config.Data(root=sys.argv[1], short_sides=(32,));"
        "it = loader.train_batches(sources.load(d, 'train', False), d, batch_size=2,"
        " seed=0); next(it); print(it.bad_images)"
    )
    small_set(tmp_path, "a.png", Image.new("RGB", (9, 9)))
    assert in_child(code, tmp_path) == "0\n"
