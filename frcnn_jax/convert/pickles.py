"""Pickles read as data: nothing is imported, called or hashed on a file's word.

A pickle is a program for a stack machine. Python's own reader stays out: it calls what
the file names, hashes keys of the file's making (nested tuples hash forever) and
allocates what the file declares, none of which `find_class` can stop. This machine has
the same opcodes and makes inert values only:

    None, bool, int, float, str, bytes, list, tuple    as they are
    dict, OrderedDict                                  Pairs, unhashed
    a class or function                                Name
    what calling an unknown one would have given       Stub

A few calls are understood, by name, and answered by functions of ours (`builders`).

Memory is bounded by the file: no opcode creates more than it reads plus a small
constant, there are at most MAX_STEPS of them, a payload is compared with what is left
of the file before it is read, and nothing here recurses.

Protocols 2 to 5 are read, those of Python 2 included, whose str comes as bytes. Format:
the opcode table of Python's pickletools.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from frcnn_jax.convert.rules import ConversionError

MAX_STEPS = 2_000_000  # a ResNet-50 detector takes ten thousand
MAX_INT = 255  # bytes
MAX_TEXT = 1000  # characters of a name of any kind

# A function that stands for a call: the arguments, already inert, to an inert value.
Builder = Callable[[tuple], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A class or function that the file names, never looked up."""

    name: str  # module.name


@dataclass(frozen=True, slots=True, eq=False)
class Stub:
    """What stands where a call of something unknown was: its name and nothing else."""

    name: str


class Pairs(list):
    """A dictionary as its list of (key, value): unhashed, a later key wins."""

    __slots__ = ()

    def get(self, name: str) -> Any:
        """Returns the last value under a string, None where there is none."""
        return next((v for k, v in reversed(self) if text(k) == name), None)


def text(value: Any) -> str | None:
    """Returns a short string, also one of Python 2 (bytes); None for the rest."""
    if not isinstance(value, str | bytes) or len(value) > MAX_TEXT:
        return None
    if isinstance(value, bytes):
        return value.decode("latin1")
    return value


def printable(words: str) -> str:
    """Returns words of a file's making without control codes for a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in words)


def _no_persistent_id(_: Any) -> Any:
    raise ConversionError("points outside the file (persistent id), which it may not")


class Unpickler:
    """Reads pickles off a file, one after the other.

    `size` is the length of the file in bytes. `builders` answer calls by qualified
    name, `persistent` turns a persistent id into a value. Both see inert values and
    raise ConversionError for what they do not understand.
    """

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        *,
        builders: Mapping[str, Builder],
        persistent: Callable[[Any], Any] = _no_persistent_id,
    ) -> None:
        """Starts where the file stands."""
        self._file = file
        self._left = size - file.tell()
        self._encodable = size  # what _codecs.encode may still copy
        empty = {"builtins.bytes": _no_bytes, "__builtin__.bytes": _no_bytes}
        self._builders = {"_codecs.encode": self._encode, **empty, **builders}
        self._persistent = persistent

    def load(self) -> Any:
        """Returns the value of the next pickle; the file then stands behind it.

        Raises ConversionError, without the name of the file, for anything else.
        """
        self.stack: list = []
        self.marks: list[list] = []
        self.memo: dict[int, Any] = {}
        try:
            for _ in range(MAX_STEPS):
                opcode = self.take(1)
                if opcode == b".":
                    return self.stack.pop()
                run = OPCODES.get(opcode)
                if run is None:
                    raise ConversionError(_unknown(opcode))
                run(self)
        except (IndexError, KeyError) as error:
            raise ConversionError("pickle is damaged: nothing to take there") from error
        except UnicodeDecodeError as error:
            raise ConversionError("pickle is damaged: text is not UTF-8") from error
        raise ConversionError(f"pickle takes more than {MAX_STEPS} steps; refused")

    def take(self, count: int) -> bytes:
        """Reads bytes that are there."""
        if count > self._left:
            raise ConversionError(
                f"pickle is truncated: {count} bytes wanted, {self._left} left"
            )
        self._left -= count
        data = self._file.read(count)
        if len(data) != count:
            raise ConversionError("pickle is truncated")
        return data

    def number(self, layout: str) -> Any:
        """Reads one number of a struct layout."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        """Reads text up to a line break."""
        line = self._file.readline(min(self._left, MAX_TEXT))
        self._left -= len(line)
        if not line.endswith(b"\n"):
            raise ConversionError("pickle is damaged: a name does not end")
        return line[:-1].decode()

    def since_mark(self) -> list:
        """Takes everything above the last mark off the stack."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def call(self, what: Any, arguments: Any) -> Any:
        """Answers a call by a builder, or by a stub."""
        if not isinstance(what, Name | Stub) or not isinstance(arguments, tuple):
            raise ConversionError("pickle is damaged: calls what is no function")
        builder = self._builders.get(what.name) if isinstance(what, Name) else None
        return Stub(what.name) if builder is None else builder(arguments)

    def extend(self, kind: Any, items: list) -> None:
        """Adds to the list or dictionary on top of the stack."""
        top = self.stack[-1]
        if type(top) is kind:
            top.extend(items)
        elif not isinstance(top, Stub):
            raise ConversionError("pickle is damaged: adds to what is no container")

    def persist(self) -> None:
        """Replaces a persistent id by what it stands for."""
        self.stack.append(self._persistent(self.stack.pop()))

    def _encode(self, arguments: tuple) -> Any:
        """Bytes, which Python 3 writes in protocol 2 as Latin-1 text to encode.

        Honest files encode each text once, so together no more than the file holds.
        """
        match arguments:
            case (str(plain), codec) if text(codec) in ("latin1", "latin-1"):
                self._encodable -= len(plain)
                if self._encodable < 0:
                    raise ConversionError("pickle repeats its bytes; refused")
                try:
                    return plain.encode("latin1")
                except UnicodeEncodeError as error:
                    raise ConversionError("pickle is damaged: no bytes") from error
        return Stub("_codecs.encode")


def _no_bytes(arguments: tuple) -> Any:
    """The empty bytes, which Python 3 writes in protocol 2 as a call."""
    return Stub("builtins.bytes") if arguments else b""


def _unknown(opcode: bytes) -> str:
    if opcode in b"IFLSVPpgdli":
        return (
            "holds an opcode of pickle protocol 0 or 1, which is not read: load it "
            "where it was made and save it again with protocol 2"
        )
    return f"holds the pickle opcode {opcode!r}, which is not read"


Run = Callable[[Unpickler], Any]  # an opcode; what it returns is dropped


def _push(value: Any) -> Run:
    return lambda m: m.stack.append(value)


def _push_new(make: Callable[[], Any]) -> Run:
    return lambda m: m.stack.append(make())


def _number(layout: str) -> Run:
    return lambda m: m.stack.append(m.number(layout))


def _bytes(length: str) -> Run:
    return lambda m: m.stack.append(m.take(m.number(length)))


def _text(length: str) -> Run:
    return lambda m: m.stack.append(m.take(m.number(length)).decode())


def _int(length: str) -> Run:
    def run(m: Unpickler) -> None:
        count = m.number(length)
        if count > MAX_INT:
            raise ConversionError(f"pickle holds an integer of {count} bytes; refused")
        m.stack.append(int.from_bytes(m.take(count), "little", signed=True))

    return run


def _tuple(count: int) -> Run:
    def run(m: Unpickler) -> None:
        if len(m.stack) < count:
            raise IndexError
        m.stack[-count:] = [tuple(m.stack[-count:])]

    return run


def _push_all(make: Callable[[list], Any]) -> Run:
    """Replaces all above the mark by one value."""

    def run(m: Unpickler) -> None:
        items = m.since_mark()
        m.stack.append(make(items))

    return run


def _put(layout: str) -> Run:
    def run(m: Unpickler) -> None:
        m.memo[m.number(layout)] = m.stack[-1]

    return run


def _get(layout: str) -> Run:
    return lambda m: m.stack.append(m.memo[m.number(layout)])


def _mark(m: Unpickler) -> None:
    m.marks.append(m.stack)
    m.stack = []


def _memoize(m: Unpickler) -> None:
    m.memo[len(m.memo)] = m.stack[-1]


def _global(m: Unpickler) -> None:
    m.stack.append(Name(f"{m.line()}.{m.line()}"))


def _stack_global(m: Unpickler) -> None:
    name, module = text(m.stack.pop()), text(m.stack.pop())
    if name is None or module is None:
        raise ConversionError("pickle is damaged: a name is no text")
    m.stack.append(Name(f"{module}.{name}"))


def _call(m: Unpickler) -> None:
    arguments, what = m.stack.pop(), m.stack.pop()
    m.stack.append(m.call(what, arguments))


def _call_with_names(m: Unpickler) -> None:
    m.stack.pop()  # keyword arguments
    _call(m)


def _old_object(m: Unpickler) -> None:
    what, *arguments = m.since_mark() or [None]
    m.stack.append(m.call(what, tuple(arguments)))


def _build(m: Unpickler) -> None:
    """Hands over state to records of ours that want it; attributes are dropped."""
    state = m.stack.pop()
    take_state = getattr(m.stack[-1], "take_state", None)
    if take_state is not None:
        take_state(state)


def _set_items(m: Unpickler, items: list) -> None:
    if len(items) % 2:
        raise ConversionError("pickle is damaged: a key without a value")
    m.extend(Pairs, list(zip(items[0::2], items[1::2], strict=True)))


def _set_item(m: Unpickler) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    _set_items(m, [key, value])


def _append(m: Unpickler) -> None:
    item = m.stack.pop()
    m.extend(list, [item])


def _protocol(m: Unpickler) -> None:
    if (protocol := m.number("<B")) > 5:
        raise ConversionError(f"pickle protocol {protocol} is not read")


OPCODES: dict[bytes, Run] = {
    b"\x80": _protocol,
    b"\x95": lambda m: m.take(8),  # FRAME: a hint for readers
    b"N": _push(None),
    b"\x88": _push(True),
    b"\x89": _push(False),
    b")": _push(()),
    b"]": _push_new(list),
    b"}": _push_new(Pairs),
    b"\x8f": _push(Stub("set")),
    b"J": _number("<i"),
    b"K": _number("<B"),
    b"M": _number("<H"),
    b"G": _number(">d"),
    b"\x8a": _int("<B"),
    b"\x8b": _int("<I"),
    b"U": _bytes("<B"),  # str of Python 2
    b"T": _bytes("<I"),
    b"C": _bytes("<B"),
    b"B": _bytes("<I"),
    b"\x8e": _bytes("<Q"),
    b"\x96": _bytes("<Q"),  # bytearray
    b"\x8c": _text("<B"),
    b"X": _text("<I"),
    b"\x8d": _text("<Q"),
    b"(": _mark,
    b"t": _push_all(tuple),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"\x91": _push_all(lambda _: Stub("frozenset")),
    b"a": _append,
    b"e": lambda m: m.extend(list, m.since_mark()),
    b"\x90": lambda m: m.extend(list, m.since_mark()),  # to a set: a stub
    b"s": _set_item,
    b"u": lambda m: _set_items(m, m.since_mark()),
    b"q": _put("<B"),
    b"r": _put("<I"),
    b"\x94": _memoize,
    b"h": _get("<B"),
    b"j": _get("<I"),
    b"0": lambda m: m.stack.pop(),
    b"1": lambda m: m.since_mark(),
    b"2": lambda m: m.stack.append(m.stack[-1]),
    b"c": _global,
    b"\x93": _stack_global,
    b"R": _call,
    b"\x81": _call,  # NEWOBJ
    b"\x92": _call_with_names,
    b"o": _old_object,
    b"b": _build,
    b"Q": Unpickler.persist,
}
