"""JAX's primitives in ONNX operators, as far as a detector's prediction has them."""

from dataclasses import replace

import numpy as np
from jax import lax
from onnx import helper

from frcnn_jax.export.onnx_graph import Graph, Rules, Value

# Operators of the same meaning on arrays of one shape.
ELEMENTWISE = {
    **{"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow"},
    **{"max": "Max", "min": "Min", "and": "And", "or": "Or", "not": "Not"},
    **{"lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual"},
    **{"eq": "Equal", "ne": "Equal", "select_n": "Where", "rem": "Mod"},
    **{"exp": "Exp", "log": "Log", "sqrt": "Sqrt", "rsqrt": "Sqrt", "neg": "Neg"},
    **{"abs": "Abs", "sign": "Sign", "floor": "Floor", "ceil": "Ceil"},
    **{"logistic": "Sigmoid", "tanh": "Tanh", "convert_element_type": "Cast"},
    **{"stop_gradient": "", "copy": "", "square": "Mul", "integer_pow": "Pow"},
}


def elementwise(graph: Graph, eqn, inputs: list[Value]) -> Value:
    """One operator on inputs that broadcast, or constants taken into a convolution."""
    kind, aval = eqn.primitive.name, eqn.outvars[0].aval
    if not ELEMENTWISE[kind]:
        return inputs[0]
    if (taken := _into_convolution(kind, inputs)) is not None:
        return taken
    held = np.broadcast_shapes(*(x.held for x in inputs))
    names, attributes = [graph.held(x) for x in inputs], {}
    if kind == "select_n":
        name = graph.choice(names[0], names[2], names[1], aval.dtype)
        return graph.made(name, aval, held)
    if kind in ("div", "rem") and aval.dtype == np.int32 and inputs[1].array is None:
        return graph.made(_whole_division(graph, kind, names), aval, held)
    if kind == "square":
        names *= 2
    elif kind == "integer_pow":
        names.append(graph.constant(np.asarray(eqn.params["y"], aval.dtype)))
    elif kind == "rem":
        attributes["fmod"] = 1
    elif kind == "convert_element_type":
        attributes["to"] = helper.np_dtype_to_tensor_dtype(np.dtype(aval.dtype))
    relu = kind == "max" and _is_zero(inputs[1]) and aval.dtype == np.float32
    name = graph.op("Relu", names[0]) if relu else None
    name = name or graph.op(ELEMENTWISE[kind], *names, **attributes)
    if kind in ("ne", "rsqrt"):
        name = graph.op({"ne": "Not", "rsqrt": "Reciprocal"}[kind], name)
    return graph.made(name, aval, held)


def _whole_division(graph: Graph, kind: str, names: list[str]) -> str:
    """Division of integers, which by 0 is -1, with the numerator left, as in XLA."""
    none = graph.op("Equal", names[1], np.int32(0))
    divisor = graph.op("Where", none, np.int32(1), names[1])
    if kind == "div":
        name = graph.op("Div", names[0], divisor)
        return graph.op("Where", none, np.int32(-1), name)
    name = graph.op("Mod", names[0], divisor, fmod=1)
    return graph.op("Where", none, names[0], name)


def _is_zero(value: Value) -> bool:
    return value.array is not None and value.array.size == 1 and not value.array.any()


def _into_convolution(kind: str, inputs: list[Value]) -> Value | None:
    """A convolution times or plus one constant per channel is a convolution."""
    if kind not in ("mul", "add"):
        return None
    for value, other in (inputs, inputs[::-1]):
        per_channel = other.array is not None and np.prod(other.held[:-1]) == 1
        if value.conv is None or not per_channel:
            continue
        x, kernel, bias, attributes = value.conv
        factor = np.broadcast_to(other.array.reshape(-1), bias.shape)
        if kind == "add":
            return replace(value, conv=(x, kernel, bias + factor, attributes))
        kernel = kernel * factor[:, None, None, None]
        return replace(value, conv=(x, kernel, bias * factor, attributes))
    return None


def _broadcast(graph, eqn, inputs):
    (x,), places = inputs[:1], eqn.params["broadcast_dimensions"]
    shape = [1] * len(eqn.params["shape"])
    for place, size in zip(places, x.held, strict=True):
        shape[place] = size
    if x.array is not None:
        return graph.known(x.array.reshape(shape), tuple(eqn.params["shape"]))
    if len(shape) == len(x.held) and tuple(shape) == x.held:
        return graph.made(graph.held(x), eqn.outvars[0].aval, shape)
    name = graph.op("Reshape", graph.held(x), np.int64(shape))
    return graph.made(name, eqn.outvars[0].aval, shape)


def _reshape(graph, eqn, inputs):
    aval = eqn.outvars[0].aval
    name = graph.op("Reshape", graph.full(inputs[0]), np.int64(aval.shape))
    return graph.made(name, aval)


def _transpose(graph, eqn, inputs):
    perm = list(map(int, eqn.params["permutation"]))
    name = graph.op("Transpose", graph.held(inputs[0]), perm=perm)
    return graph.made(name, eqn.outvars[0].aval, [inputs[0].held[i] for i in perm])


def _slice(graph, eqn, inputs):
    p, rank = eqn.params, len(inputs[0].shape)
    steps = p["strides"] or [1] * rank
    return _sliced(graph, eqn, inputs, p["start_indices"], p["limit_indices"], steps)


def _sliced(graph, eqn, inputs, starts, ends, steps):
    full = graph.full(inputs[0])
    axes = [
        i
        for i, (a, b, s) in enumerate(zip(starts, ends, steps, strict=True))
        if (a, b, s) != (0, inputs[0].shape[i], 1)
    ]
    picked = (np.int64([v[i] for i in axes]) for v in (starts, ends, steps))
    starts, ends, steps = picked
    name = graph.op("Slice", full, starts, ends, np.int64(axes), steps)
    return graph.made(name if axes else full, eqn.outvars[0].aval)


def _rev(graph, eqn, inputs):
    name, axes = graph.full(inputs[0]), np.int64(eqn.params["dimensions"])
    back = np.full(len(axes), -1)
    ends = np.full(len(axes), np.iinfo(np.int64).min)
    name = graph.op("Slice", name, back, ends, axes, back)
    return graph.made(name, eqn.outvars[0].aval)


def _concatenate(graph, eqn, inputs):
    axis = int(eqn.params["dimension"])
    name = graph.op("Concat", *map(graph.full, inputs), axis=axis)
    return graph.made(name, eqn.outvars[0].aval)


def _stack(graph, eqn, inputs):
    aval, axis = eqn.outvars[0].aval, int(eqn.params.get("axis", 0))
    each = np.int64([1 if i == axis else n for i, n in enumerate(aval.shape)])
    parts = [graph.op("Reshape", graph.full(x), each) for x in inputs]
    return graph.made(graph.op("Concat", *parts, axis=axis), aval)


def _tile(graph, eqn, inputs):
    name = graph.op("Tile", graph.full(inputs[0]), np.int64(eqn.params["reps"]))
    return graph.made(name, eqn.outvars[0].aval)


def _pad(graph, eqn, inputs):
    low, high, inner = zip(*eqn.params["padding_config"], strict=True)
    if any(inner) or min(*low, *high) < 0:
        raise ValueError("no translation to ONNX for padding inside or below 0")
    value = graph.held(inputs[1])
    name = graph.op("Pad", graph.full(inputs[0]), np.int64([*low, *high]), value)
    return graph.made(name, eqn.outvars[0].aval)


def _reduce(kind: str, through=None):
    """A reduction; `through` is the type that it is computed in."""

    def translated(graph, eqn, inputs):
        name, aval = graph.full(inputs[0]), eqn.outvars[0].aval
        cast = helper.np_dtype_to_tensor_dtype
        name = graph.op("Cast", name, to=cast(np.dtype(through))) if through else name
        axes = np.int64(eqn.params["axes"])
        name = graph.op(kind, name, axes, keepdims=0)
        if through:
            name = graph.op("Cast", name, to=cast(np.dtype(aval.dtype)))
        return graph.made(name, aval)

    return translated


def _cumsum(graph, eqn, inputs):
    axis = np.int64(eqn.params["axis"])
    name = graph.op(
        "CumSum", graph.full(inputs[0]), axis, reverse=int(eqn.params["reverse"])
    )
    return graph.made(name, eqn.outvars[0].aval)


def _top_k(graph, eqn, inputs):
    values, index = eqn.outvars
    count = np.int64([values.aval.shape[-1]])
    names = graph.op("TopK", graph.full(inputs[0]), count, outputs=2, axis=-1)
    names[1] = graph.op("Cast", names[1], to=helper.TensorProto.INT32)
    return [graph.made(names[0], values.aval), graph.made(names[1], index.aval)]


def _sort(graph, eqn, inputs):
    """A stable sort by the first array: of equal values TopK takes the first first."""
    axis = int(eqn.params["dimension"])
    count = np.int64([inputs[0].shape[axis]])
    keys, order = graph.op(
        "TopK", graph.full(inputs[0]), count, outputs=2, axis=axis, largest=0
    )
    others = [
        graph.op("GatherElements", graph.full(x), order, axis=axis) for x in inputs[1:]
    ]
    made = zip([keys, *others], eqn.outvars, strict=True)
    return [graph.made(name, v.aval) for name, v in made]


def _conv(graph, eqn, inputs):
    p, (x, kernel) = eqn.params, inputs
    numbers = p["dimension_numbers"]
    nhwc = (0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)
    if kernel.array is None or tuple(map(tuple, numbers)) != nhwc:
        raise ValueError("no translation to ONNX for this layout of a convolution")
    (top, bottom), (left, right) = p["padding"]
    attributes = {
        "strides": list(map(int, p["window_strides"])),
        "pads": list(map(int, (top, left, bottom, right))),
        "dilations": list(map(int, p["rhs_dilation"])),
        "group": int(p["feature_group_count"]),
    }
    return _waiting(graph, eqn, x, kernel.array, attributes)


def _waiting(graph, eqn, x, kernel, attributes):
    """A convolution not written yet; `kernel` is HWIO."""
    aval = eqn.outvars[0].aval
    x = graph.op("Transpose", graph.full(x), perm=[0, 3, 1, 2])
    bias = np.zeros(kernel.shape[-1], np.float32)
    conv = x, kernel.transpose(3, 2, 0, 1), bias, attributes
    shape = tuple(aval.shape)
    return Value(shape, np.dtype(aval.dtype), shape, conv=conv)


def _max_pool(graph, eqn, inputs):
    p = eqn.params
    x = graph.op("Transpose", graph.full(inputs[0]), perm=[0, 3, 1, 2])
    low, high = zip(*p["padding"][1:3], strict=True)
    y = graph.op(
        "MaxPool",
        x,
        kernel_shape=list(map(int, p["window_dimensions"][1:3])),
        strides=list(map(int, p["window_strides"][1:3])),
        pads=list(map(int, (*low, *high))),
    )
    return graph.made(graph.op("Transpose", y, perm=[0, 2, 3, 1]), eqn.outvars[0].aval)


def _dot(graph, eqn, inputs):
    a, b = inputs
    (contract_a, contract_b), (batch_a, batch_b) = eqn.params["dimension_numbers"]
    aval = eqn.outvars[0].aval
    plain = tuple(contract_a) == (len(a.shape) - 1,) and tuple(contract_b) == (0,)
    if plain and len(a.shape) == 4 and len(b.shape) == 2 and b.array is not None:
        kernel = np.broadcast_to(b.array, b.shape)[None, None]
        return _waiting(graph, eqn, a, kernel, {})
    if plain and len(b.shape) == 2:
        return graph.made(graph.op("MatMul", graph.full(a), graph.full(b)), aval)

    def ordered(value, batch, contract, contract_last):
        free = [i for i in range(len(value.shape)) if i not in (*batch, *contract)]
        inner = [*free, *contract] if contract_last else [*contract, *free]
        sizes = [int(np.prod([value.shape[i] for i in g])) for g in (free, contract)]
        sizes = sizes if contract_last else sizes[::-1]
        perm = [int(i) for i in (*batch, *inner)]
        name = graph.op("Transpose", graph.full(value), perm=perm)
        shape = [*(value.shape[i] for i in batch), *sizes]
        return graph.op("Reshape", name, np.int64(shape))

    left = ordered(a, batch_a, contract_a, True)
    right = ordered(b, batch_b, contract_b, False)
    name = graph.op("MatMul", left, right)
    return graph.made(graph.op("Reshape", name, np.int64(aval.shape)), aval)


def _gather(graph, eqn, inputs):
    """Rows along one axis; batch axes become offsets into one long list of rows."""
    p, (x, index), aval = eqn.params, inputs, eqn.outvars[0].aval
    n = p["dimension_numbers"]
    batch, axes = list(n.operand_batching_dims), list(n.start_index_map)
    rest = [i for i in range(len(x.shape)) if i not in (*batch, *axes)]
    whole = all(p["slice_sizes"][i] == x.shape[i] for i in rest)
    if len(axes) != 1 or not whole or list(n.collapsed_slice_dims) != axes:
        raise ValueError("no translation to ONNX for reading along several axes")
    count, shape = x.shape[axes[0]], index.shape[:-1]
    rows = graph.op("Reshape", graph.full(index), np.int64(shape))
    inside = graph.op("Clip", rows, np.int32(0), np.int32(count - 1))
    offset = _offsets(x, batch, n.start_indices_batching_dims, shape, count)
    where = graph.op("Add", inside, offset) if batch else inside
    perm = [int(i) for i in (*batch, *axes, *rest)]
    sizes = [x.shape[i] for i in rest]
    flat = graph.op("Transpose", graph.full(x), perm=perm)
    flat = graph.op("Reshape", flat, np.int64([-1, *sizes]))
    found = graph.op("Gather", flat, where, axis=0)
    if p["mode"] == lax.GatherScatterMode.FILL_OR_DROP:
        found = _filled(graph, found, rows, inside, len(sizes), p, aval)
    offsets = list(map(int, n.offset_dims))
    places = [i for i in range(len(aval.shape)) if i not in offsets] + offsets
    perm = np.argsort(places).tolist()
    return graph.made(graph.op("Transpose", found, perm=perm), aval)


def _filled(graph, found, rows, inside, rest, p, aval):
    """What lies outside of the array is `fill_value`, by default as in JAX."""
    fill = p["fill_value"]
    if fill is None:
        floating = np.issubdtype(aval.dtype, np.floating)
        fill = np.nan if floating else np.iinfo(aval.dtype).min
    there = graph.op("Equal", rows, inside)
    axes = np.arange(-rest, 0)
    there = graph.op("Unsqueeze", there, axes) if rest else there
    return graph.op("Where", there, found, np.asarray(fill, aval.dtype))


def _offsets(x, batch, places, shape, count):
    """The first row of each batch element, shaped for indices of `shape`."""
    offset = np.zeros([1] * len(shape), np.int32)
    step = count
    for axis, place in list(zip(batch, places, strict=True))[::-1]:
        along = [1] * len(shape)
        along[place] = -1
        offset = offset + (np.arange(x.shape[axis]) * step).reshape(along)
        step *= x.shape[axis]
    return offset.astype(np.int32)


def _scatter(graph, eqn, inputs):
    """Single values written along the last axis; those outside go to a spare place."""
    (x, index, new), n = inputs, eqn.params["dimension_numbers"]
    last, batch = len(x.shape) - 1, list(n.operand_batching_dims)
    plain = batch == list(range(last)) == list(n.scatter_indices_batching_dims)
    if not plain or n.update_window_dims or list(n.inserted_window_dims) != [last]:
        raise ValueError("no translation to ONNX for writing along several axes")
    count, aval = x.shape[-1], eqn.outvars[0].aval
    rows = graph.op("Reshape", graph.full(index), np.int64(index.shape[:-1]))
    outside = graph.op(
        "Or",
        graph.op("Less", rows, np.int32(0)),
        graph.op("Greater", rows, np.int32(count)),
    )
    rows = graph.op("Where", outside, np.int32(count), rows)
    pads = np.int64([*[0] * (2 * last + 1), 1])
    longer = graph.op("Pad", graph.full(x), pads)
    made = graph.op("ScatterElements", longer, rows, graph.full(new), axis=-1)
    one = np.int64
    name = graph.op("Slice", made, one([0]), one([count]), one([last]))
    return graph.made(name, aval)


def _iota(graph, eqn, inputs):
    p = eqn.params
    shape = [1] * len(p["shape"])
    shape[p["dimension"]] = -1
    values = np.arange(p["shape"][p["dimension"]], dtype=p["dtype"])
    return graph.known(values.reshape(shape), tuple(p["shape"]))


TRANSLATED = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _conv,
    "cumsum": _cumsum,
    "dot_general": _dot,
    "expand_dims": _reshape,
    "gather": _gather,
    "iota": _iota,
    "pad": _pad,
    "reduce_and": _reduce("ReduceMin", np.uint8),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_or": _reduce("ReduceMax", np.uint8),
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_window_max": _max_pool,
    "reshape": _reshape,
    "rev": _rev,
    "scatter": _scatter,
    "slice": _slice,
    "sort": _sort,
    "squeeze": _reshape,
    "stack": _stack,
    "tile": _tile,
    "top_k": _top_k,
    "transpose": _transpose,
}
RULES = Rules(ELEMENTWISE, elementwise, TRANSLATED)
