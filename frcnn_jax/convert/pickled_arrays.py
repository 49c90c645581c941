"""numpy arrays and torch tensors inside pickles: records first, values when asked for.

numpy writes `_reconstruct` with a state (version, shape, dtype, Fortran order, bytes),
or `_frombuffer(bytes, dtype, shape, order)`. torch writes a tensor as a view: storage,
offset, size and strides, counted in elements. Sizes are compared with the bytes that
are there before anything is made; every array is a view of bytes read once.

bfloat16, which numpy does not have, becomes float32: the same numbers. Objects, text
and big-endian numbers stay closed: they may lie in a file, but not among its weights.
"""

import math
import re
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from frcnn_jax.convert.pickles import Builder, Name, Pairs, Stub, text
from frcnn_jax.convert.rules import ConversionError

MAX_AXES = 64
_PLAIN = re.compile(r"b1|\?|[iu][1248]|f[248]|c(8|16)")

# Storage classes of torch and their elements; quantised ones are named to be skipped.
STORAGES = {
    "torch.DoubleStorage": "<f8",
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    "torch.BFloat16Storage": "<u2",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
    "torch.ComplexFloatStorage": "<c8",
    "torch.ComplexDoubleStorage": "<c16",
    "torch.QInt8Storage": "i1",
    "torch.QUInt8Storage": "u1",
    "torch.QInt32Storage": "<i4",
    "torch.storage.UntypedStorage": "u1",
}
Bytes = bytes | memoryview


class DType:
    """A numpy dtype; `dtype` is None for anything but little-endian numbers."""

    def __init__(self, name: str) -> None:
        """Takes a name such as "f4"."""
        self.dtype = np.dtype(f"<{name}") if _PLAIN.fullmatch(name) else None

    def take_state(self, state: Any) -> None:
        """Takes the byte order off (version, order, ...)."""
        match state:
            case (_, order, *_) if text(order) in ("<", "|", "="):
                return
        self.dtype = None


class Array:
    """A numpy array, its values still bytes."""

    def __init__(self) -> None:
        """Makes an array that still waits for its state."""
        self._parts: tuple | None = None

    def take_state(self, state: Any) -> None:
        """Takes (version, shape, dtype, Fortran order, bytes)."""
        match state:
            case (_, tuple(shape), DType() as dtype, fortran, data):
                self._parts = shape, dtype.dtype, "F" if fortran else "C", data
            case _:
                raise ConversionError("numpy array of an unknown form")

    def read(self) -> np.ndarray:
        """Returns the values, as a view of the bytes; raises ConversionError."""
        if self._parts is None:
            raise ConversionError("numpy array without values")
        shape, dtype, order, data = self._parts
        if dtype is None or not isinstance(data, bytes):
            raise ConversionError("not plain little-endian numbers")
        if _elements(shape) * dtype.itemsize != len(data):
            raise ConversionError(f"{len(data)} bytes do not fill {dtype} {shape}")
        return np.ndarray(shape, dtype, data, order=order)


class Scalar(Array):
    """A numpy number, which is no weight."""


class Storage:
    """Numbers of a torch file that tensors are views of, read once and when needed.

    `fetch` returns exactly `size` bytes or raises ConversionError.
    """

    def __init__(self, kind: str, count: int, fetch: Callable[["Storage"], Bytes]):
        """Takes the name of a storage class and its count of elements."""
        if kind not in STORAGES or count < 0:
            raise ConversionError(f"unknown storage of {count} elements: {kind}")
        self.kind, self.count = kind, count
        self.size = count * np.dtype(STORAGES[kind]).itemsize
        self._fetch = fetch
        # Weak: the arrays that view it keep it, and once they are gone it is.
        self._values: Callable[[], np.ndarray | None] = lambda: None

    def values(self) -> np.ndarray:
        """Returns a vector."""
        values = self._values()
        if values is None:
            data = self._fetch(self)
            values = np.ndarray((self.count,), STORAGES[self.kind], data)
            if self.kind == "torch.BFloat16Storage":  # the upper half of a float32
                half, values = values, np.empty(self.count, "<f4")
                bits = values.view("<u4")
                bits[:] = half
                bits <<= 16
                values.flags.writeable = False  # as all others
            self._values = weakref.ref(values)
        return values


class Tensor:
    """A torch tensor: a view of a storage, checked when it is read."""

    def __init__(self, storage: Storage, offset: int, size: tuple, stride: tuple):
        """Takes offset and strides in elements."""
        self._view = storage, offset, size, stride

    def read(self) -> np.ndarray:
        """Returns the values, as a view of the storage; raises ConversionError."""
        storage, offset, size, stride = self._view
        count = _elements(size)
        if len(stride) != len(size) or not _natural((offset, *stride)):
            raise ConversionError(f"tensor {size} with impossible strides or offset")
        reach = sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if count and offset + reach >= storage.count:
            raise ConversionError(
                f"tensor {size} with strides {stride} at {offset} reaches beyond its "
                f"storage of {storage.count} elements"
            )
        if count > storage.count:
            raise ConversionError(
                f"tensor {size} repeats its storage of {storage.count} elements: save "
                f"it with .contiguous()"
            )
        values = storage.values()
        if not count:
            return np.zeros(size, values.dtype)
        width = values.itemsize
        strides = tuple(step * width for step in stride)
        return np.ndarray(size, values.dtype, values, offset * width, strides)


def _natural(numbers: tuple) -> bool:
    return all(type(n) is int and 0 <= n < 2**63 for n in numbers)


def _elements(shape: tuple) -> int:
    """Counts the elements of a shape of the file's making."""
    if len(shape) > MAX_AXES or not _natural(shape):
        raise ConversionError("array with a impossible shape")
    return math.prod(shape)


def _dtype(arguments: tuple) -> Any:
    match arguments:
        case (name, *_) if text(name) is not None:
            return DType(text(name)[:8])
    return DType("")


def _scalar(arguments: tuple) -> Any:
    match arguments:
        case (DType() as dtype, bytes() as data):
            number = Scalar()
            number.take_state((1, (), dtype, False, data))
            return number
    return Stub("numpy.scalar")


def _frombuffer(arguments: tuple) -> Array:
    match arguments:
        case (data, dtype, shape, order):
            array = Array()
            array.take_state((1, shape, dtype, text(order) == "F", data))
            return array
    raise ConversionError("numpy array of an unknown form")


def _ordered(arguments: tuple) -> Pairs:
    """An OrderedDict: empty, or of Python 2, a list of [key, value]."""
    pairs = Pairs()
    match arguments:
        case (list(items),):
            kept = (i for i in items if type(i) in (list, tuple) and len(i) == 2)
            pairs.extend((key, value) for key, value in kept)
            items.clear()  # moved, so that a file cannot multiply it
    return pairs


def _shape(arguments: tuple) -> tuple:
    match arguments:
        case (tuple(size),):
            return size
    return ()


def _tensor(arguments: tuple) -> Tensor:
    match arguments:
        case (Storage() as storage, int(offset), tuple(size), tuple(stride), *_):
            return Tensor(storage, offset, size, stride)
    raise ConversionError("torch tensor of an unknown form")


def _parameter(arguments: tuple) -> Any:
    match arguments:
        case (Tensor() | Stub() as data, *_):
            return data
    raise ConversionError("torch parameter of an unknown form")


def _with_attributes(arguments: tuple) -> Any:
    """A tensor with attributes or of a subclass: (function, class, arguments, ...)."""
    match arguments:
        case (Name(name="torch._utils._rebuild_tensor_v2"), _, tuple(inner), *_):
            return _tensor(inner)
        case (Name(name="torch._utils._rebuild_parameter"), _, tuple(inner), *_):
            return _parameter(inner)
        case (Name(name=name), *_):
            return Stub(name)
    return Stub("torch._tensor._rebuild_from_type_v2")


BUILDERS: dict[str, Builder] = {
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda _: Pairs(),
    "numpy.dtype": _dtype,
    "numpy.core.numeric._frombuffer": _frombuffer,
    "numpy._core.numeric._frombuffer": _frombuffer,
    "numpy.core.multiarray._reconstruct": lambda _: Array(),
    "numpy._core.multiarray._reconstruct": lambda _: Array(),
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "torch.Size": _shape,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _with_attributes,
    "torch.autograd.variable.Variable": _parameter,  # before torch 0.4
    "torch.nn.parameter.Parameter": _parameter,
}
