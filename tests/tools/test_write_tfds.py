import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.data import sources, tfds, transforms

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def written(shapes_root, tmp_path_factory):
    """The drawn set with some ids, crowds and areas changed, and its TFDS folder."""
    folder = tmp_path_factory.mktemp("tfds")
    for split in ("train", "val"):
        path = shapes_root / "annotations" / f"{split}.json"
        content = json.loads(path.read_text())
        content["annotations"][0] |= {"iscrowd": 1, "area": 7.25}
        content["annotations"][1] |= {"ignore": 1}
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    (folder / "images").symlink_to(shapes_root / "images")
    told = subprocess.run(
        [sys.executable, "tools/write_tfds.py", "--config=configs/finetune.py"]
        + [f"--config.data.root={folder}", f"--out={folder / 'out'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return folder, told.stdout.split("--config.data.root=")[1].strip()


@pytest.mark.parametrize("split", ["train", "val"])
def test_what_is_written_reads_back_the_same(written, split):
    folder, root = written
    assert root.startswith(tfds.PREFIX)
    assert sources.splits(root) == ["train", "val"]
    before = sources.load(config.Data(root=str(folder)), split, True)
    for _ in range(2):  # scanned, and from the kept scan
        after = sources.load(config.Data(root=root), split, True)
        assert after.class_names == before.class_names
        assert after.category_ids == before.category_ids
        for a, b in zip(after.records, before.records, strict=True):
            assert (a.source_id, a.width, a.height) == (b.source_id, b.width, b.height)
            np.testing.assert_array_equal(a.boxes, b.boxes)
            np.testing.assert_array_equal(a.labels, b.labels)
            np.testing.assert_array_equal(a.crowd, b.crowd)
            assert a.path.read_bytes() == b.path.read_bytes()
            assert str(a.path) == b.path.name
        both = (d.annotations["annotations"] for d in (after, before))
        for a, b in zip(*both, strict=True):
            same = ("image_id", "category_id", "bbox", "area", "iscrowd")
            assert [a[k] for k in same] == [b[k] for k in same]
            assert a.get("ignore") == b.get("ignore")


def test_pictures_are_decoded_and_parts_of_splits_read(written):
    _, root = written
    half = sources.load(config.Data(root=root), "train[:50%]", False)
    assert len(half.records) == 6
    shape = (half.records[0].height, half.records[0].width, 3)
    assert transforms.decode(half.records[0].path).shape == shape
    with pytest.raises(FileNotFoundError, match="no split 'valid'.*mean 'val'"):
        sources.load(config.Data(root=root), "valid", False)
    with pytest.raises(ValueError, match="tfds:none/2017 cannot be opened"):
        sources.load(config.Data(root="tfds:none/2017"), "train", False)


def test_without_a_version_the_newest_is_read(written, tmp_path, monkeypatch):
    newest = Path(written[1].removeprefix(tfds.PREFIX))
    for version in ("1.9.0", "1.10.0"):
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / version).symlink_to(newest)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert tfds._prepared("own") == tmp_path / "own" / "1.10.0"
    assert sources.splits("tfds:own") == ["train", "val"]


def test_a_folder_that_is_there_is_not_taken_for_the_new_one(written):
    folder = written[0]
    told = subprocess.run(
        [sys.executable, "tools/write_tfds.py", "--config=configs/finetune.py"]
        + [f"--config.data.root={folder}", f"--out={folder / 'out'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert told.returncode and "is there already; name another --out" in told.stderr
