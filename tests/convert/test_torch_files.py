"""Files that real torch wrote (tests/golden/torch_files), and files that nobody should.

What a file cannot do by being read is in test_pickles.py.
"""

import importlib.util
import mmap
import pickle
import shutil
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from frcnn_jax.convert import files, torch_files
from frcnn_jax.convert.rules import ConversionError

GOLDEN = Path(__file__).parents[1] / "golden" / "torch_files"


def _recipe():
    path = GOLDEN / "recipe.py"
    spec = importlib.util.spec_from_file_location("torch_files_recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


recipe = _recipe()
WEIGHTS = recipe.weights()


def assert_same(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        np.testing.assert_array_equal(a[name], b[name], err_msg=name, strict=True)


def members(name: str) -> dict[str, bytes]:
    with zipfile.ZipFile(GOLDEN / name) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zipped(path: Path, parts: dict[str, bytes], compression=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def refused(path: Path, match: str) -> str:
    """The message, which names the file; reading takes little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ConversionError, match=match) as error:
            torch_files.read(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value)


@pytest.mark.parametrize("name", ["zip.pth", "zip_protocol4.pt", "legacy.pth"])
def test_every_type_and_view(name):
    arrays, metadata = files.load(GOLDEN / name)
    assert_same(arrays, recipe.plain())
    assert metadata == {}


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth"])
def test_views_share_memory_and_each_storage_is_read_once(name):
    arrays, _ = files.load(GOLDEN / name)
    for view in ("shared_rows", "shared_column", "shared_every_second"):
        assert np.shares_memory(arrays["shared"], arrays[view])
    assert np.shares_memory(arrays["bfloat16"], arrays["bfloat16_column"])


def test_numbers_of_a_zip_are_a_map_of_the_file(tmp_path):
    path = tmp_path / "w.pth"
    shutil.copy(GOLDEN / "zip.pth", path)
    arrays, _ = files.load(path)
    path.unlink()  # the map holds what the folder no longer does
    assert_same(arrays, recipe.plain())
    assert not any(a.flags.writeable for a in arrays.values() if a.size)
    base = arrays["shared"]
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)


def test_a_zip_packed_again_lies_at_odd_addresses(tmp_path):
    parts = members("zip.pth")
    arrays, _ = files.load(zipped(tmp_path / "w.pth", {"x" * 7: b""} | parts))
    assert_same(arrays, recipe.plain())
    assert not all(array.ctypes.data % array.itemsize == 0 for array in arrays.values())


def test_mmdetection_3():
    arrays, metadata = files.load(GOLDEN / "mmdet3.pth")
    assert_same(arrays, WEIGHTS)
    unused = metadata.pop("not used")
    classes = '["person", "traffic light", "été"]'
    assert metadata == {
        "meta.cfg": "model = dict(type='FasterRCNN')\n" * 40,
        "meta.dataset_meta.CLASSES": classes,
        "meta.epoch": "12",
        "meta.iter": "87961",
    }
    assert unused.startswith("8 beside the weights (meta.dataset_meta.palette")


def test_mmdetection_2():
    arrays, metadata = files.load(GOLDEN / "mmdet2.pth")
    assert_same(arrays, WEIGHTS)
    assert metadata == {
        "meta.CLASSES": '["person", "traffic light", "été"]',
        "meta.epoch": "12",
        "meta.mmdet_version": "2.0.0",
    }


def test_jwyang_on_several_gpus():
    arrays, metadata = files.load(GOLDEN / "jwyang.pth")
    assert_same(arrays, WEIGHTS)
    assert metadata == {
        "session": "1",
        "epoch": "7",
        "pooling_mode": "align",
        "class_agnostic": "False",
        "not used": "1 beside the weights (optimizer)",
    }


@pytest.mark.parametrize("protocol", [2, 5])
def test_detectron2(protocol):
    arrays, metadata = files.load(GOLDEN / f"detectron2_protocol{protocol}.pkl")
    extra = {"fortran": recipe.values(20, 3, 2), "scalar": np.array(3, np.int64)}
    assert_same(arrays, WEIGHTS | extra)
    assert metadata["__author__"] == "Detectron2 Model Zoo"
    assert metadata["matching_heuristics"] == "True"


def test_detectron_of_python_2():
    arrays, metadata = files.load(GOLDEN / "python2.pkl")
    assert_same(arrays, WEIGHTS | {"long": recipe.values(30, 100)})
    assert metadata == {"cfg": "MODEL: x\n" * 10}


def test_flat_dictionary_of_arrays(tmp_path):
    flat = WEIGHTS | {"note": "by hand", "half": np.float16([1, 2])}
    flat |= {"map": np.float64(0.25), "odd": np.datetime64("2020"), 3: np.zeros(1)}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(flat))
    arrays, metadata = files.load(tmp_path / "w.pkl")
    assert_same(arrays, WEIGHTS | {"half": np.float16([1, 2])})
    unused = "2 beside the weights (odd, <int>)"
    assert metadata == {"note": "by hand", "map": "0.25", "not used": unused}


def test_load_variables_says_whose_names_and_what_was_not_used():
    loaded = files.load_variables(GOLDEN / "mmdet3.pth", norm_eps=1e-5)
    assert loaded.kind == "mmdet"
    kernel = loaded.variables["params/backbone/stem/conv/kernel"]
    theirs = WEIGHTS["backbone.conv1.weight"]
    np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 1, 0))
    assert loaded.notes[-1].startswith("not used: 8 beside the weights (meta.")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("sparse.pth", "w: made by torch._utils._rebuild_sparse_tensor: .*dense"),
        ("quantised.pth", "w: made by torch._utils._rebuild_qtensor: .*dense"),
        ("whole_model.pth", "'model': .*modules.linear.Linear.*save its state_dict"),
        ("whole_model_legacy.pth", "modules.linear.Linear.*save its state_dict"),
        ("script.pt", "TorchScript program: .*state_dict"),
    ],
)
def test_what_torch_saves_and_we_do_not_read(name, match):
    refused(GOLDEN / name, match)


PAGE = b"\n <!DOCTYPE html><html><title>404 Not Found</title></html>"
TAR = b"storages".ljust(257, b"\0") + b"ustar".ljust(300, b"\0")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty: download it again"),
        (PAGE, "HTML or XML page, not weights: .*fetch the file itself"),
        (b"\xef\xbb\xbf<html>", "HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (TAR, "tar file of torch before 0.1.10"),
        (b"just some text\n", r"neither a torch file .*b'just som'"),
        (pickle.dumps({"a": 1}, 0), "neither a torch file .*protocol 2"),
        (pickle.dumps(3), "no dictionary of weights but int"),
        (pickle.dumps([np.zeros(3)]), "no dictionary of weights but list"),
        (pickle.dumps({"a": {"b": 1}}), "no arrays among its 1 entries .*a"),
        (pickle.dumps({}), "no arrays among its 0 entries .*none"),
        (pickle.dumps({"a": np.array([{}])}), "a: not plain little-endian"),
        (pickle.dumps({"a": np.array(["x"])}), "a: not plain little-endian"),
        (pickle.dumps({"a": np.zeros(2, ">f4")}), "a: not plain little-endian"),
    ],
)
@pytest.mark.parametrize("suffix", torch_files.SUFFIXES)
def test_other_contents(tmp_path, suffix, content, match):
    (tmp_path / f"w{suffix}").write_bytes(content)
    refused(tmp_path / f"w{suffix}", match)


GOOD = [
    "zip.pth",
    "legacy.pth",
    "mmdet3.pth",
    "python2.pkl",
    "detectron2_protocol5.pkl",
]


@pytest.mark.parametrize("name", GOOD)
def test_truncated_anywhere(tmp_path, name):
    data = (GOLDEN / name).read_bytes()
    path = tmp_path / name
    for end in [*range(0, len(data), 41), len(data) - 1]:
        path.write_bytes(data[:end])
        with pytest.raises(ConversionError, match=name):
            torch_files.read(path)


def test_damaged_numbers_are_noticed(tmp_path):
    data = (GOLDEN / "zip.pth").read_bytes()
    at = data.index(recipe.values(0, 3, 2).tobytes())
    path = tmp_path / "w.pth"
    path.write_bytes(data[: at + 5] + b"\xaa" + data[at + 6 :])
    refused(path, "CRC")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"zip/data/0": None}, "lacks data/0"),
        ({"zip/data/0": bytes(20)}, "storage '0' of 6 elements has 20 bytes, not 24"),
        ({"zip/data/0": bytes(28)}, "storage '0' of 6 elements has 28 bytes, not 24"),
        ({"zip/data.pkl": None}, "0 data.pkl files"),
        ({"other/data.pkl": b""}, "2 data.pkl files"),
        ({"zip/../../etc/x": b""}, "path as a name"),
        ({"/etc/x": b""}, "path as a name"),
        ({"zip/byteorder": b"big"}, "big-endian"),
        ({"zip/data.pkl": b"\x80\x02"}, "truncated"),
    ],
)
def test_changed_archives(tmp_path, change, match):
    parts = {k: v for k, v in (members("zip.pth") | change).items() if v is not None}
    refused(zipped(tmp_path / "w.pth", parts), match)


def test_storage_of_10_gb_that_is_not_there(tmp_path):
    parts = members("zip.pth")
    six, huge = b"K\x06tq", b"J" + struct.pack("<i", 2**31 - 1) + b"tq"
    assert six in parts["zip/data.pkl"]
    parts["zip/data.pkl"] = parts["zip/data.pkl"].replace(six, huge)
    refused(zipped(tmp_path / "w.pth", parts), "of 2147483647 elements has 24 bytes")

    data = (GOLDEN / "legacy.pth").read_bytes()
    count = struct.pack("<q", 24) + recipe.values(1, 6, 4).tobytes()[:8]
    assert data.count(count) == 1
    data = data.replace(count, struct.pack("<q", 10**10) + count[8:])
    (tmp_path / "w.pth").write_bytes(data)
    refused(tmp_path / "w.pth", "has 10000000000 elements, its tensors say 24")


def test_zip_bombs_duplicates_and_encryption(tmp_path):
    parts = members("zip.pth") | {"zip/data/0": bytes(10**7)}
    path = zipped(tmp_path / "bomb.pth", parts, zipfile.ZIP_DEFLATED)
    refused(path, "compressed zip archive")

    path = tmp_path / "twice.pth"
    zipped(path, members("zip.pth"))
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("zip/data/0", bytes(24))
    refused(path, "two members of one name")

    data = bytearray((GOLDEN / "zip.pth").read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.pth").write_bytes(data)
    refused(tmp_path / "locked.pth", "encrypted")


def test_members_that_overlap(tmp_path):
    """Many names for the same bytes would multiply what is read."""
    path = zipped(tmp_path / "w.pth", members("zip.pth") | {"zip/data/99": bytes(9000)})
    data = path.read_bytes()
    entry = data[data.rindex(b"PK\x01\x02") : data.rindex(b"PK\x05\x06")]
    start, end = data.index(b"PK\x01\x02"), bytearray(data[-22:])
    copies = b"".join(entry.replace(b"data/99", b"data/%d" % n) for n in range(80, 89))
    directory = data[start:-22] + copies
    end[8:12] = struct.pack("<HH", *[struct.unpack("<H", end[8:10])[0] + 9] * 2)
    end[12:16] = struct.pack("<I", len(directory))
    path.write_bytes(data[:start] + directory + end)
    refused(path, "more in it than the file is long")


@pytest.mark.parametrize("long", [False, True])
def test_an_archive_of_nothing_but_names(tmp_path, long):
    data = bytearray((GOLDEN / "zip.pth").read_bytes())
    at, layout = (len(data) - 58, "<Q") if long else (len(data) - 10, "<I")
    data[at : at + struct.calcsize(layout)] = struct.pack(layout, 2**23 + 1)
    if not long:
        data[-42:-38] = b"...."
    (tmp_path / "w.pth").write_bytes(data)
    refused(tmp_path / "w.pth", "8388609 bytes of names")


def mutated(random, data: bytes) -> bytes:
    """Flips, cuts, repeats or replaces a few bytes."""
    data = bytearray(data)
    for _ in range(random.integers(1, 5)):
        if not data:
            break
        at = int(random.integers(len(data)))
        kind = random.integers(5)
        if kind == 0:
            data[at] ^= 1 << int(random.integers(8))
        elif kind == 1:
            data[at] = OPCODES[random.integers(len(OPCODES))]
        elif kind == 2:
            data[at:at] = bytes(
                OPCODES[i] for i in random.integers(len(OPCODES), size=3)
            )
        elif kind == 3:
            del data[at : at + int(random.integers(1, 9))]
        elif random.integers(8) == 0:
            del data[at:]
        else:
            data[at:at] = data[at // 2 : at // 2 + int(random.integers(1, 60))]
    return bytes(data)


OPCODES = b"\x80\x95N\x88\x89)]}\x8fJKMG\x8a\x8bUTCB\x8e\x96\x8cX\x8d(t\x85\x86\x87"
OPCODES += b"\x91ae\x90suqr\x94hj012c\x93R\x81\x92obQ.iP\x82\x97\x98"


def fuzz(random, path: Path) -> bool:
    """Reads one mutated file; says whether it still was one."""
    name = GOOD[random.integers(len(GOOD))]
    if name in ("zip.pth", "mmdet3.pth") and random.integers(4):
        parts = members(name)  # past the checksums
        inner = f"{name[:-4]}/data.pkl"
        zipped(path, parts | {inner: mutated(random, parts[inner])})
    else:
        path.write_bytes(mutated(random, (GOLDEN / name).read_bytes()))
    try:
        arrays, metadata = torch_files.read(path)
    except ConversionError as error:
        assert str(path) in str(error)
        return False
    assert sum(array.nbytes for array in arrays.values()) < 1e6
    assert all(isinstance(value, str) for value in metadata.values())
    return True


def test_fuzz(tmp_path):
    """Only our error comes out, or arrays no larger than the file allows."""
    random = np.random.default_rng(0)
    read = sum(fuzz(random, tmp_path / "w.pth") for _ in range(500))
    assert 0 < read < 450
