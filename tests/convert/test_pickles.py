"""What a pickle cannot do here: run, import, hang or fill memory."""

import io
import os
import pickle
import pickletools
import struct
import sys
import time
import tracemalloc

import numpy as np
import pytest

from frcnn_jax.convert import pickles, torch_files
from frcnn_jax.convert.pickles import Name, Pairs, Stub
from frcnn_jax.convert.rules import ConversionError

GOOD = {"a": np.arange(3, dtype=np.float32)}


def read(path, data: bytes):
    """Reads a file with few seconds and little memory."""
    path.write_bytes(data)
    tracemalloc.start()
    start = time.monotonic()
    try:
        return torch_files.read(path)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 100e6 and time.monotonic() - start < 60


def value(data: bytes):
    return pickles.Unpickler(io.BytesIO(data), len(data), builders={}).load()


def pushed(data: bytes | str) -> bytes:
    """The opcode that pushes text or bytes."""
    if isinstance(data, str):
        return b"X" + struct.pack("<I", len(data.encode())) + data.encode()
    return b"B" + struct.pack("<I", len(data)) + data


class Evil:
    """Pickles as a call."""

    def __init__(self, function, *arguments, state=None):
        self.call = function, arguments, state

    def __reduce__(self):
        return self.call


def test_every_opcode_of_protocols_2_to_5_is_known_or_refused():
    text_only = set("IFLSVPpgdli")
    refused = set("\x82\x83\x84\x97\x98") | text_only  # extensions, outside buffers
    known = {opcode.code for opcode in pickletools.opcodes} - refused - {"."}
    assert {code.decode("latin1") for code in pickles.OPCODES} == known


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values(protocol):
    plain = [
        *(None, True, False, 0, 255, 65535, -1, 2**40, -(2**70), 1.5, "é", "x" * 300),
        *((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [1, [2]], []),
    ]
    again = value(pickle.dumps(plain, protocol))
    assert again == plain
    assert [type(v) for v in again] == [type(v) for v in plain]
    data = [b"", b"x", bytes(range(256)) * 2]
    assert value(pickle.dumps(data, protocol)) == data
    nested = value(pickle.dumps({"a": {1: 2}, (1, 2): 3}, protocol))
    assert type(nested) is Pairs and nested == [("a", [(1, 2)]), ((1, 2), 3)]
    shared = [1]
    twice = value(pickle.dumps((shared, shared), protocol))
    assert twice[0] is twice[1]
    for odd in ({1, 2}, frozenset({1}), complex(1, 2), Evil(print)):
        assert type(value(pickle.dumps(odd, protocol))) is Stub


def test_a_class_is_a_name():
    assert type(value(pickle.dumps(os.system))) is Name
    assert value(pickle.dumps(os.system, 2)).name == "posix.system"


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that would be there if anything had run; a module that would make it."""
    marker = tmp_path / "marker"
    code = f"open({str(marker)!r}, 'w').close()"
    (tmp_path / "trap_module.py").write_text(code + "\ndef run(*_): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return marker


def hostile(marker) -> dict[str, object]:
    """Objects that run something when Python unpickles them."""
    code = f"open({str(marker)!r}, 'w').close()"
    touch = f"touch {marker}"
    find = Evil(getattr, Evil(__import__, "os"), "system")
    return {
        "system": Evil(os.system, touch),
        "popen": Evil(os.popen, touch),
        "eval": Evil(eval, code),
        "exec": Evil(exec, code),
        "import": Evil(__import__, "trap_module"),
        "getattr": find,
        "open": Evil(open, str(marker), "w"),
        "nested argument": Evil(print, Evil(os.system, touch)),
        "state": Evil(list, state={"x": Evil(os.system, touch)}),
        "key": {(Evil(os.system, touch),): 1},
        "pickle in a pickle": Evil(pickle.loads, pickle.dumps(Evil(os.system, touch))),
        "numpy load": Evil(np.load, str(marker), None, True),
    }


NAMES = sorted(hostile("x"))


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_runs(tmp_path, marker, name, protocol):
    evil = hostile(marker)[name]
    arrays, _ = read(tmp_path / "w.pth", pickle.dumps({"x": evil, **GOOD}, protocol))
    assert arrays["a"].tolist() == [0, 1, 2]
    for whole in (evil, {"model": evil}, [evil], {"state_dict": {"w": evil}}):
        with pytest.raises(ConversionError, match=r"w\.pth"):
            read(tmp_path / "w.pth", pickle.dumps(whole, protocol))
    assert not marker.exists() and "trap_module" not in sys.modules


TRAP = b"ctrap_module\nrun\n"
CALLS = {
    "reduce": TRAP + b"(tR",
    "reduce of a reduce": TRAP + b")R)R)R",
    "new object": TRAP + b")\x81",
    "new object with names": TRAP + b")}\x92",
    "old object": b"(" + TRAP + b"K\x01o",
    "name from the stack": pushed("trap_module") + pushed("run") + b"\x93)R",
    "dotted name": pushed("collections") + pushed("OrderedDict.__init__") + b"\x93)R",
    "state of a call": TRAP + b")R}" + pushed("__setstate__") + TRAP + b"sb",
    "state of an OrderedDict": b"ccollections\nOrderedDict\n)R}"
    + pushed("__class__")
    + TRAP
    + b"sb",
    "state of a dictionary": b"}}" + pushed("get") + TRAP + b"sb",
    "state of a function": TRAP + b"}" + pushed("__code__") + b"K\x01sb",
    "items of a call": TRAP + b")R(" + pushed("a") + b"K\x01u",
    "appended to a call": TRAP + b")R(K\x01e",
    "default factory": b"ccollections\ndefaultdict\n" + TRAP + b"\x85R",
    "type of a dtype": b"cnumpy\ndtype\n" + TRAP + b"\x85R",
    "scalar of a dtype": b"cnumpy.core.multiarray\nscalar\n" + TRAP + b"K\x01\x86R",
    "tensor subclass": b"ctorch._tensor\n_rebuild_from_type_v2\n("
    + TRAP
    + TRAP
    + b"))tR",
    "codec": b"c_codecs\nencode\n" + pushed("x") + pushed("trap_module") + b"\x86R",
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_by_hand(tmp_path, marker, name):
    body = b"(" + pushed("x") + CALLS[name] + pushed("w")
    body += pickle.dumps(GOOD["a"], 2)[2:-1] + b"u"
    arrays, _ = read(tmp_path / "w.pkl", b"\x80\x02}" + body + b".")
    assert arrays["w"].tolist() == [0, 1, 2]
    assert not marker.exists() and "trap_module" not in sys.modules


REFUSED = {
    "INST": (b"(itrap_module\nrun\n", "protocol 0 or 1"),
    "EXT1": (b"\x82\x01", "opcode b'.x82'"),
    "EXT2": (b"\x83\x01\x00", "opcode b'.x83'"),
    "EXT4": (b"\x84\x01\x00\x00\x00", "opcode b'.x84'"),
    "outside buffer": (b"\x97", "opcode b'.x97'"),
    "PERSID": (b"P1\n", "protocol 0 or 1"),
    "persistent id": (b"K\x01Q", "outside the file"),
    "protocol 9": (b"\x80\x09", "protocol 9"),
    "unknown opcode": (b"\xff", "opcode b'.xff'"),
    "calls a number": (b"K\x01)R", "calls what is no function"),
    "calls with a list": (TRAP + b"]R", "calls what is no function"),
    "empty stack": (b"0", "nothing to take"),
    "only a stop": (b"", "nothing to take"),
    "no mark": (b"K\x01t", "nothing to take"),
    "no old object": (b"(o", "calls what is no function"),
    "no memo": (b"h\x07", "nothing to take"),
    "short tuple": (b"K\x01\x87", "nothing to take"),
    "odd items": (b"}(K\x01u", "key without a value"),
    "items of a number": (b"K\x01(K\x01K\x02u", "adds to what is no container"),
    "append to a dictionary": (b"}K\x01a", "adds to what is no container"),
    "endless name": (b"c" + b"x" * 5000, "name does not end"),
    "name of a number": (b"K\x01K\x02\x93", "a name is no text"),
    "text": (b"X\x02\x00\x00\x00\xff\xfe", "not UTF-8"),
    "name in bytes": (b"c\xff\n\xff\n", "not UTF-8"),
    "no bytes": (
        b"c_codecs\nencode\n" + pushed("€") + pushed("latin1") + b"\x86R",
        "no bytes",
    ),
    "array of a number": (
        b"cnumpy.core.multiarray\n_reconstruct\n)RK\x01b",
        "unknown form",
    ),
    "tensor of a number": (b"ctorch._utils\n_rebuild_tensor_v2\nK\x01\x85R", "form"),
    "parameter": (b"ctorch._utils\n_rebuild_parameter\nK\x01\x85R", "unknown form"),
    "buffer": (b"cnumpy.core.numeric\n_frombuffer\n)R", "unknown form"),
    "array without state": (
        b"}" + pushed("a") + b"cnumpy.core.multiarray\n_reconstruct\n)Rs",
        "array without values",
    ),
    "10 GB of bytes": (b"\x8e" + struct.pack("<Q", 10**10), "10000000000 bytes wanted"),
    "10 GB of text": (b"\x8d" + struct.pack("<Q", 10**10), "10000000000 bytes wanted"),
    "all bytes": (b"\x96" + b"\xff" * 8, "bytes wanted"),
    "4 GB of Python 2": (b"T" + b"\xff" * 4, "bytes wanted"),
    "long integer": (b"\x8b" + b"\xff\xff\xff\x7f", "integer of 2147483647 bytes"),
    "256-byte integer": (b"\x8b\x00\x01\x00\x00" + bytes(256), "integer of 256 bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path, name):
    body, match = REFUSED[name]
    with pytest.raises(ConversionError, match=match) as error:
        read(tmp_path / "w.pkl", b"\x80\x02" + body + b".")
    assert str(tmp_path / "w.pkl") in str(error.value)


def with_array(body: bytes) -> bytes:
    """A file whose good array lies beside what `body` pushes."""
    array = pickle.dumps(GOOD["a"], 2)[2:-1]
    return b"\x80\x02}(" + pushed("w") + array + pushed("x") + body + b"u."


DOUBLED = b")" + b"2\x86" * 200  # a tuple of twice a tuple of twice ...
DEEP = b")" + b"\x85" * 100_000
BOMBS = {
    "far memo": b"K\x01r\xff\xff\xff\xff",
    "doubled tuples": DOUBLED,
    "doubled tuples as keys": b"}" + DOUBLED + b"K\x01s",
    "doubled tuples in a set": b"\x8f(" + DOUBLED + b"\x90",
    "deep tuples": DEEP,
    "deep tuples as keys": b"}" + DEEP + b"K\x01s",
    "deep lists": b"]" * 100_000 + b"a" * 99_999,
    "deep dictionaries": (b"}" + pushed("meta")) * 50_000 + b"K\x01" + b"s" * 50_000,
    "deep calls": TRAP + b")R" * 100_000,
    "many marks": b"(" * 100_000 + b"1" * 100_000 + b"N",
    "long names": b"N"
    + pushed("meta")
    + b"}("
    + pushed("n" * 999)
    + b"q\x01N"
    + b"h\x01N" * 150_000
    + b"u",
    "a list that holds itself": b"]q\x01h\x01a",
    "a dictionary that holds itself": b"}q\x01" + pushed("meta") + b"h\x01s",
    "one shape many times": b"("
    + b"N" * 1000
    + b"tq\xc8ctorch\nSize\nq\xc90"
    + b"h\xc9h\xc8\x85R0" * 20_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_do_not_go_off(tmp_path, name):
    arrays, metadata = read(tmp_path / "w.pkl", with_array(BOMBS[name]))
    assert list(arrays) == ["w"]
    assert all(len(text) < 10_000 for text in metadata.values())


def test_a_hundred_thousand_bad_weights(tmp_path):
    made = pushed("a") + array(b"(" + b"J\xff\xff\xff\x7f" * 64 + b"t", "f4", b"")
    body = b"}(" + made + b"q\x02" + pushed("n" * 999) + b"q\x01"
    body += b"h\x02" + b"h\x01h\x02" * 100_000 + b"u."
    with pytest.raises(ConversionError, match="perhaps more"):
        read(tmp_path / "w.pkl", b"\x80\x02" + body)


def test_colliding_keys_are_not_hashed(tmp_path):
    modulus = 2**61 - 1
    keys = b"".join(
        b"\x8a\x10" + (n * modulus).to_bytes(16, "little") + b"N" for n in range(20_000)
    )
    assert list(read(tmp_path / "w.pkl", with_array(b"}(" + keys + b"u"))[0]) == ["w"]


def test_what_is_copied_is_counted(tmp_path):
    encode = b"c_codecs\nencode\nq\xc8" + pushed("x" * 10_000) + b"q\xc9" + b"00"
    repeat = b"h\xc8h\xc9" + pushed("latin1") + b"\x86R"
    with pytest.raises(ConversionError, match="repeats its bytes"):
        read(tmp_path / "w.pkl", with_array(encode + repeat * 1000))
    pairs = b"](" + b"]NaNa" * 1000 + b"eq\xc8" + b"ccollections\nOrderedDict\nq\xc90"
    repeat = b"h\xc9h\xc8\x85R"
    body = pairs + b"(" + repeat * 10_000 + b"t\x86"
    assert list(read(tmp_path / "w.pkl", with_array(body))[0]) == ["w"]


def test_the_steps_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, "MAX_STEPS", 1000)
    read(tmp_path / "w.pkl", with_array(b"N" + b"0N" * 400))
    with pytest.raises(ConversionError, match="more than 1000 steps"):
        read(tmp_path / "w.pkl", with_array(b"N" + b"0N" * 500))


def array(shape: bytes, dtype: str, data: bytes, order: bytes = b"\x89") -> bytes:
    """An array with a state of the caller's making."""
    kind = b"cnumpy\ndtype\n" + pushed(dtype) + b"\x85R"
    state = b"(K\x01" + shape + kind + order + pushed(data) + b"t"
    return b"cnumpy.core.multiarray\n_reconstruct\n)R" + state + b"b"


@pytest.mark.parametrize(
    ("made", "match"),
    [
        (array(b"K\x03\x85", "f4", bytes(8)), "8 bytes do not fill float32"),
        (array(b"J\xff\xff\xff\xff\x85", "f4", bytes(8)), "impossible shape"),
        (array(b"J\xff\xff\xff\xff2\x86", "f4", bytes(4)), "impossible shape"),
        (array(b"N\x85", "f4", bytes(4)), "impossible shape"),
        (array(b"\x88\x85", "f4", bytes(4)), "impossible shape"),
        (array(b"(" + b"K\x01" * 65 + b"t", "f4", bytes(4)), "impossible shape"),
        (array(b"(" + b"J\xff\xff\xff\x7f" * 64 + b"t", "f4", b""), "do not fill"),
        (array(b"K\x00\x8a\x08" + b"\xff" * 7 + b"\x7f\x86", "f4", b""), "w.pkl"),
        (array(b"K\x01\x85", "O", bytes(8)), "not plain"),
        (array(b"K\x01\x85", "f4,O", bytes(8)), "not plain"),
        (array(b"K\x01\x85", "V8", bytes(8)), "not plain"),
        (array(b"K\x01\x85", "(2,)f4", bytes(8)), "not plain"),
    ],
)
def test_arrays_of_impossible_shapes(tmp_path, made, match):
    with pytest.raises(ConversionError, match=match):
        read(tmp_path / "w.pkl", b"\x80\x02}" + pushed("a") + made + b"s.")


STORAGE = b"(" + pushed("storage") + b"ctorch\nFloatStorage\n" + pushed("0")
STORAGE += pushed("cpu") + b"K\x06tQ"  # six floats


def tensor(offset: bytes, size: bytes, stride: bytes) -> bytes:
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE
    return call + offset + size + stride + b"\x89NtR"


MINUS = b"J\xff\xff\xff\xff"
ZERO, ONE, TWO, SIX, SEVEN = (b"K" + bytes([n]) for n in (0, 1, 2, 6, 7))


@pytest.mark.parametrize(
    ("made", "match"),
    [
        (tensor(ZERO, SEVEN + b"\x85", ONE + b"\x85"), "reaches beyond"),
        (tensor(ONE, SIX + b"\x85", ONE + b"\x85"), "reaches beyond"),
        (tensor(ZERO, TWO + b"\x85", SIX + b"\x85"), "reaches beyond"),
        (
            tensor(b"\x8a\x08" + b"\xff" * 7 + b"\x7f", ONE + b"\x85", ONE + b"\x85"),
            "bey",
        ),
        (tensor(ZERO, SEVEN + b"\x85", ZERO + b"\x85"), "repeats its storage"),
        (tensor(ZERO, ONE + b"\x85", MINUS + b"\x85"), "impossible strides"),
        (tensor(MINUS, ONE + b"\x85", ONE + b"\x85"), "impossible strides or offset"),
        (tensor(ZERO, MINUS + b"\x85", ONE + b"\x85"), "impossible shape"),
        (tensor(ZERO, b"G" + bytes(8) + b"\x85", ONE + b"\x85"), "impossible shape"),
        (tensor(ZERO, ONE + b"\x85", b")"), "impossible strides"),
        (tensor(ZERO, b"N\x85", ONE + b"\x85"), "impossible shape"),
        (STORAGE, "no arrays"),
        (STORAGE.replace(b"Float", b"Evil"), "unknown storage of 6 .*EvilStorage"),
        (STORAGE.replace(b"K\x06", MINUS), "unknown storage of -1"),
        (STORAGE.replace(b"K\x06", b"N"), "persistent id"),
        (b"]Q", "persistent id"),
        (b"K\x01Q", "persistent id"),
        (pushed("storage") + b"Q", "persistent id"),
        (b"(" + pushed("storage") + b"NNNNtQ", "persistent id"),
        (STORAGE[:-2] + b"(KKKKttQ", "views of storages"),
        (STORAGE + STORAGE.replace(b"K\x06", b"K\x07") + b"\x86", "two types or sizes"),
        (b"c" + b"torch._utils\n_rebuild_tensor_v2\nNNNNtR", "w.pth"),
    ],
)
def test_tensors_of_impossible_shapes(tmp_path, made, match):
    """In the older stream, whose storage is there and fits."""
    head = b"".join(pickle.dumps(n, 2) for n in (torch_files.MAGIC, 1001, {}))
    body = b"\x80\x02}" + pushed("w") + made + b"s."
    keys = pickle.dumps(["0"], 2) + struct.pack("<q", 6) + bytes(24)
    with pytest.raises(ConversionError, match=match):
        read(tmp_path / "w.pth", head + body + keys)
    good = (
        b"\x80\x02}" + pushed("w") + tensor(ONE, TWO + b"\x85", TWO + b"\x85") + b"s."
    )
    assert read(tmp_path / "w.pth", head + good + keys)[0]["w"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("head", "keys", "match"),
    [
        ((torch_files.MAGIC, 1002, {}), ["0"], "protocol 1002"),
        ((torch_files.MAGIC, 1001, {"little_endian": False}), ["0"], "big-endian"),
        ((torch_files.MAGIC, 1001, 3), ["1"], "belongs to no tensor"),
        ((torch_files.MAGIC, 1001, {}), [["0"]], "belongs to no tensor"),
        ((torch_files.MAGIC, 1001, {}), ["0", "0"], "damaged"),
        ((torch_files.MAGIC, 1001, {}), [], "lacks storage '0'"),
        ((torch_files.MAGIC, 1001, {}), 5, "lacks storage '0'"),
    ],
)
def test_streams_that_do_not_fit(tmp_path, head, keys, match):
    data = b"".join(pickle.dumps(n, 2) for n in head)
    data += (
        b"\x80\x02}" + pushed("w") + tensor(ZERO, ONE + b"\x85", ONE + b"\x85") + b"s."
    )
    data += pickle.dumps(keys, 2) + struct.pack("<q", 6) + bytes(24)
    with pytest.raises(ConversionError, match=match):
        read(tmp_path / "w.pth", data)


def old(text: str) -> bytes:
    """A str of Python 2."""
    return b"U" + bytes([len(text)]) + text.encode()


def test_torch_0_3_of_python_2(tmp_path):
    """As jwyang's trunks: str, an OrderedDict of lists, parameters called by class."""
    storage = b"(" + old("storage") + b"ctorch\nFloatStorage\n" + old("7") + old("cpu")
    made = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\x06NtQ"
    made += b"K\x00K\x02K\x03\x86K\x03K\x01\x86tR"
    parameter = b"ctorch.nn.parameter\nParameter\n" + made + b"\x85R(\x88\x89Ntb"
    items = b"](](" + old("a") + made + b"e](" + old("b") + parameter + b"ee\x85R"
    data = b"".join(pickle.dumps(n, 2) for n in (torch_files.MAGIC, 1001, {}))
    data += b"\x80\x02ccollections\nOrderedDict\n" + items + b"."
    data += b"\x80\x02](" + old("7") + b"e."
    data += struct.pack("<q", 6) + np.arange(6, dtype="<f4").tobytes()
    arrays, _ = read(tmp_path / "w.pth", data)
    assert list(arrays) == ["a", "b"]
    assert all(a.tolist() == [[0, 1, 2], [3, 4, 5]] for a in arrays.values())


def test_what_is_no_array_among_the_weights_is_listed(tmp_path):
    odd = {"state_dict": {**GOOD, "extra_state": {"x": 1}, "version": 3}}
    arrays, metadata = read(tmp_path / "w.pth", pickle.dumps(odd))
    assert list(arrays) == ["a"]
    assert metadata["state_dict.version"] == "3"
    assert metadata["not used"] == "1 beside the weights (state_dict.extra_state)"


def test_a_key_that_comes_twice(tmp_path):
    """The later one counts, as in a dictionary."""
    array = pickle.dumps(GOOD["a"], 2)[2:-1]
    weights = b"}" + pushed("w") + TRAP + b"s" + b"(" + pushed("w") + array + b"u"
    body = b"}(" + pushed("model") + TRAP + pushed("model") + weights + b"u."
    arrays, metadata = read(tmp_path / "w.pkl", b"\x80\x02" + body)
    assert arrays["w"].tolist() == [0, 1, 2]
    assert metadata["not used"] == "2 beside the weights (model, model.w)"


def test_no_control_codes_reach_the_terminal(tmp_path):
    clear = "\x1b[2J"
    data = pickle.dumps({**GOOD, clear: {}})
    assert read(tmp_path / "w.pkl", data)[1]["not used"].endswith("(\\x1b[2J)")
    with pytest.raises(ConversionError) as error:
        read(tmp_path / "w.pkl", pickle.dumps({clear: {}}))
    assert clear not in str(error.value) and "\\x1b[2J" in str(error.value)
