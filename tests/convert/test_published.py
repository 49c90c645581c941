"""The table of published weights, and finding a row by name."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from frcnn_jax.convert import published
from frcnn_jax.convert.published import find, is_name

ROOT = Path(__file__).resolve().parents[2]
ROWS = list(published.table().values())
CONFIGS = {path.stem: path.read_text() for path in ROOT.glob("configs/*.py")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_is_whole(row):
    assert re.fullmatch(r"(mmdet|torchvision):[\w.]+", row.name)
    assert re.fullmatch(r"[0-9a-f]{8}", row.digest)
    assert row.file.endswith(f"-{row.digest}.pth")
    parts = urlsplit(row.address)
    assert parts.scheme == "https" and parts.path.endswith(f"/{row.file}")
    assert not parts.query and not parts.fragment
    assert row.config in CONFIGS or row.config == ""


@pytest.mark.parametrize("field", ["name", "file", "address"])
def test_no_two_rows_share_it(field):
    values = [getattr(row, field) for row in ROWS]
    lines = (ROOT / "frcnn_jax/convert/published.csv").read_text().splitlines()
    assert len(values) == len(set(values)) == len(lines) - 1


def test_every_published_row_with_a_configuration_of_ours_is_there():
    """jwyang's files have no addresses that a program can fetch."""
    peers = {
        name: re.search(r"Published box AP\S* \S+ \((\w+)", text)
        for name, text in CONFIGS.items()
    }
    mmdet = {name for name, peer in peers.items() if peer and peer[1] == "mmdetection"}
    assert len(mmdet) == 30
    for name in mmdet:
        assert find(f"mmdet:{name}").config == name
    ours = {row.config for row in ROWS if row.name.startswith("torchvision:")} - {""}
    theirs = {name for name, peer in peers.items() if peer and peer[1] == "torchvision"}
    assert ours == theirs


def words(text: str) -> set[str]:
    text = text.replace("mstrain", "ms").replace("bbox_mAP", "")
    text = re.sub(r"^faster_?rcnn|torchvision|coco|pretrain|large|_v3|resnet", "", text)
    return set(re.findall(r"[a-z]+\d*[a-z]*\d*|\d+x\d*[a-z]?", text.lower()))


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.name.startswith("mmdet:")], ids=lambda r: r.name
)
def test_a_file_name_speaks_of_its_row_or_a_note_says_why_not(row):
    asked = words(row.name.removeprefix("mmdet:"))
    assert row.note or asked <= words(row.file)


def test_names_and_files_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("mmdet:r50_fpn_1x", "mmdet:", "who:ever", "torchvision:a-b.c"):
        assert is_name(name)
        Path(name).touch()
        assert not is_name(name)  # a file of that name wins
    for path in ("w.pth", "a/b:c", "C:/w.npz", "runs/a:b/c.pth", "x:", "", "a:b/c"):
        assert not is_name(path)


ERRORS = {
    "mmdet:r50_fpn_1": "no such published weights; nearest: mmdet:r50_fpn_1x, ",
    "torchvision:resnet5": "nearest: torchvision:resnet50, ",
    "mmdet:qqq": "nearest: mmdet:",
    "mdet:r50_fpn_1x": "no published weights of 'mdet' (mmdet:, torchvision:);"
    " nearest: mmdet:r50_fpn_1x,",
    "nobody:": "no published weights of 'nobody' (mmdet:, torchvision:)",
}


@pytest.mark.parametrize(("name", "message"), ERRORS.items())
def test_an_unknown_name_is_told_its_neighbours(name, message):
    with pytest.raises(ValueError) as caught:
        find(name)
    assert str(caught.value).startswith(f"{name}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bare_peer_lists_its_names():
    with pytest.raises(ValueError) as caught:
        find("torchvision:")
    lines = str(caught.value).splitlines()
    there = [row for row in ROWS if row.name.startswith("torchvision:")]
    assert len(lines) == 1 + len(there)
    assert (
        "  torchvision:fasterrcnn_resnet50_fpn: configs/torchvision_r50_fpn.py" in lines
    )
    assert "  torchvision:resnet18: ImageNet trunk" in lines
