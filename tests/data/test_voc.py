import numpy as np
import pytest
from PIL import Image

from frcnn_jax import config
from frcnn_jax.data import sources, voc
from frcnn_jax.data.findings import Findings

OBJECT = """<object><name>{name}</name>{difficult}
<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"""


def entry(name="cat", box=(1, 1, 10, 10), difficult=None):
    corners = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True))
    text = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return OBJECT.format(name=name, difficult=text, **corners)


def page(*objects, filename="", size=(40, 30)):
    sides = "<size><width>{}</width><height>{}</height></size>".format(*size or "--")
    named = f"<filename>{filename}</filename>"
    return f"<annotation>{named}{sides if size else ''}{''.join(objects)}</annotation>"


def write(folder, pages, lists=None, suffix=".jpg"):
    for stem, text in pages.items():
        for sub in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (folder / sub).mkdir(parents=True, exist_ok=True)
        (folder / "Annotations" / f"{stem}.xml").write_text(text)
        Image.new("RGB", (40, 30)).save(folder / "JPEGImages" / f"{stem}{suffix}")
    for name, stems in (lists or {}).items():
        (folder / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(stems))


def load(root, split="train", training=True, **fields):
    fields = {"val": "train", **fields}  # so that nothing is held out
    return sources.load(config.Data(root=str(root), **fields), split, training)


def test_pixels_count_from_1_and_the_last_belongs_to_the_box(tmp_path):
    write(tmp_path, {"a": page(entry(box=(1, 2, 40, 30)))}, {"train": ["a"]})
    data = load(tmp_path)
    (record,) = data.records
    assert record.boxes.tolist() == [[0, 1, 40, 30]] and record.source_id == "a"
    assert data.skipped == {} and data.class_names == ("cat",)
    assert data.annotations["annotations"][0]["area"] == 40 * 29
    corners = load(tmp_path, voc_inclusive=False).records[0]
    assert corners.boxes.tolist() == [[1, 2, 40, 30]]


def test_difficult_objects_are_ignored_in_training(tmp_path):
    objects = [entry(difficult=1), entry("dog", difficult=0), entry("dog")]
    write(tmp_path, {"a": page(*objects)}, {"train": ["a"]})
    data = load(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert data.records[0].labels.tolist() == [2, 2]
    ignored = [a.get("ignore", 0) for a in data.annotations["annotations"]]
    assert ignored == [1, 0, 0]
    assert load(tmp_path, training=False).records[0].labels.tolist() == [1, 2, 2]


def test_odd_but_clear_files_are_read(tmp_path):
    objects = [entry(" traffic  light ", (1.5, 2.25, 20.5, 9)), entry("cat")]
    text = "\ufeff" + page(*objects, filename="C.png", size=())
    write(tmp_path, {"b c": text, "z": page(size=(0, 0))}, {"train": ["b c", "z"]})
    (tmp_path / "JPEGImages" / "b c.jpg").rename(tmp_path / "JPEGImages" / "C.png")
    data = load(tmp_path)
    assert data.class_names == ("cat", "traffic light")
    assert [(r.width, r.height) for r in data.records] == [(40, 30)] * 2
    assert data.records[0].path.name == "C.png" and len(data.records[1].boxes) == 0
    np.testing.assert_allclose(data.records[0].boxes[0], [0.5, 1.25, 20.5, 9])


def test_the_name_of_the_xml_finds_the_picture_first(tmp_path):
    pages = {"a": page(filename="b.jpg"), "b": page(entry(), filename="a.jpg")}
    write(tmp_path, pages, {"train": ["a", "b"]})
    assert [r.path.stem for r in load(tmp_path).records] == ["a", "b"]


def test_only_a_clear_yes_is_difficult(tmp_path):
    words = ("false", "Unspecified", "", "0", "true", "1")
    write(tmp_path, {"a": page(*(entry(difficult=w) for w in words))})
    found = sources.examine(config.Data(root=str(tmp_path)), "all", True).dataset
    ignored = [a.get("ignore", 0) for a in found.annotations["annotations"]]
    assert ignored == [0, 0, 0, 0, 1, 1]


def test_encodings_of_several_bytes(tmp_path):
    write(tmp_path, {"a": "", "b": page(size=("inf", 30))}, {"train": ["a", "b"]})
    text = '<?xml version="1.0" encoding="gb2312"?>' + page(entry("\u732b"))
    (tmp_path / "Annotations" / "a.xml").write_bytes(text.encode("gb2312"))
    data = load(tmp_path)
    assert data.class_names == ("\u732b",) and data.records[1].width == 40


def test_folders_of_several_years_and_splits(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        write(tmp_path / year, {year[3:]: page(entry())}, {"train": [year[3:]]})
    lists = tmp_path / "VOC2007" / "ImageSets" / "Main"
    (lists / "cat_train.txt").write_text("2007 -1\n")
    assert voc.splits(tmp_path) == ["VOC2007/train", "VOC2012/train"]
    data = load(tmp_path, "VOC2007/train+VOC2012/train")
    assert [r.source_id for r in data.records] == ["VOC2007/2007", "VOC2012/2012"]
    with pytest.raises(FileNotFoundError, match="VOC2007/trian.*mean 'VOC2007/train'"):
        load(tmp_path, "VOC2007/trian")


def test_xml_beside_pictures_and_no_lists(tmp_path):
    write(tmp_path / "x", {"a": page(entry()), "b": page(entry("dog"))})
    assert voc.splits(tmp_path / "x") == ["all"]
    Image.new("RGB", (4, 4)).save(tmp_path / "x" / "JPEGImages" / "c.jpg")
    found = load(tmp_path / "x", "all")
    assert len(found.records) == 2
    assert found.skipped == {"pictures without an annotation file, left out": 1}
    flat = tmp_path / "flat" / "train"
    flat.mkdir(parents=True)
    (flat / "a.xml").write_text(page(entry()))
    Image.new("RGB", (40, 30)).save(flat / "a.png")
    assert voc.splits(tmp_path / "flat") == ["train"]
    assert load(tmp_path / "flat").records[0].path == flat / "a.png"


BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]>
<annotation><filename>&c;</filename></annotation>"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<annotation><size>", "a.xml: broken XML at line 1, column 18"),
        (b" " * (voc.MAX_BYTES + 1), "a.xml: 16777217 bytes, more than any annotation"),
        (BOMB, "a.xml: it declares a document type or entities"),
        (BOMB.encode("utf-16"), "a.xml: it declares a document type or entities"),
        ('<?xml version="1.0" encoding="foo"?><a/>', "a.xml: unknown encoding: foo"),
        (
            b'<?xml version="1.0" encoding="utf-7"?>+ADwAIQ-DOCTYPE a><a/>',
            "a.xml: it declares a document type or entities",
        ),
        (page(entry(box=("x", 1, 5, 5))), "the bbox is"),
        (page(entry(name="")), "an object without a name"),
        (page(entry(box=(9, 1, 5, 5))), "negative width"),
        (None, "annotation files missing: 1"),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path, text, told):
    write(tmp_path, {"a": page(), "b": page(entry())}, {"train": ["a", "b"]})
    path = tmp_path / "Annotations" / "a.xml"
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError) as error:
        load(tmp_path)
    assert told in str(error.value)


def test_lists_must_not_leave_the_folder(tmp_path):
    inside = tmp_path / "inside"
    write(inside, {"a": page(entry())}, {"train": ["a", "../../secret"]})
    write(tmp_path, {"secret": page(entry())})
    (tmp_path / "secret.xml").write_text(page(entry()))
    with pytest.raises(ValueError, match="(?s)leave the folder of the data: 1.*secret"):
        load(inside)


def test_a_file_that_changed_is_read_again(tmp_path):
    write(tmp_path, {"a": page(entry())}, {"train": ["a"]})
    assert load(tmp_path).class_names == ("cat",)
    (tmp_path / "Annotations" / "a.xml").write_text(page(entry("horse")))
    raw = voc.read(tmp_path, "train", inclusive=True, findings=Findings())
    assert raw.content["categories"] == [{"id": 1, "name": "horse"}]
