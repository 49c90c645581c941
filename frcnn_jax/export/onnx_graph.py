"""A traced JAX function as an ONNX graph: values, constants, control flow.

The program that JAX traces is translated equation by equation (`onnx_ops` has one
function for each primitive), so every detector of this project comes out with its own
rules for padding, crops and suppression, none of which ONNX's own operators follow.
What depends on weights alone is computed here. Broadcasting stays implicit: a value
may hold ones where its array in JAX is repeated. A convolution waits for the constants
that multiply it and are added to it, which go into its kernel and bias.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 20
LARGEST = 2**20  # elements that are computed here rather than by the program
SHORT = ("bfloat16", "float16")
# Primitives that are another program, and what its parameter is called.
CALLS = {
    "jit": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
    "closed_call": "call_jaxpr",
    "remat": "jaxpr",
}


@dataclass(frozen=True)
class Value:
    """An array of the program; one of `name`, `array` and `conv` is there."""

    shape: tuple[int, ...]  # as in JAX
    dtype: np.dtype
    held: tuple[int, ...]  # as in the graph: 1 where it is broadcast
    name: str = ""
    array: np.ndarray | None = None  # a constant
    conv: Any = None  # (input, kernel OIHW, bias, attributes), not yet written


class Rules(NamedTuple):
    """How primitives are translated; each takes the graph, an equation, its inputs."""

    alike: Mapping[str, str]  # ONNX's operators of the same meaning
    elementwise: Callable[..., Value]  # for those
    others: Mapping[str, Callable]


class Graph:
    """The nodes written so far; bodies of loops share constants and names."""

    def __init__(self, rules: Rules, outer: "Graph | None" = None):
        """A graph, or the body of a loop inside `outer`."""
        self.rules = rules
        self.nodes: list[onnx.NodeProto] = []
        self._written: dict[int, tuple[Any, str]] = {}  # convolutions
        self.root: Graph = self if outer is None else outer.root
        if outer is None:
            self.constants: dict[str, onnx.TensorProto] = {}
            self._known: dict[bytes, str] = {}
            self._count = 0

    def fresh(self, hint: str) -> str:
        """A name that nothing has yet."""
        self.root._count += 1
        return f"{hint}_{self.root._count}"

    def op(self, kind: str, *inputs, outputs: int = 1, **attributes):
        """Adds a node; inputs are names or arrays. One name, or a list of them."""
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        out = [self.fresh(kind) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, names, out, **attributes))
        return out[0] if outputs == 1 else out

    def constant(self, array) -> str:
        """The name of a constant; equal ones are kept once."""
        array = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
        key = f"{array.dtype}{array.shape}".encode() + array.tobytes()
        root = self.root
        if key not in root._known:
            root._known[key] = name = self.fresh("constant")
            root.constants[name] = numpy_helper.from_array(array, name)
        return root._known[key]

    def known(self, array, shape=None) -> Value:
        """A constant as a value, which stands for `shape` where given."""
        array = np.asarray(array)
        return Value(shape or array.shape, array.dtype, array.shape, array=array)

    def made(self, name: str, aval, held=None) -> Value:
        """What a node gives, with shape and type as in JAX."""
        held = tuple(aval.shape) if held is None else tuple(held)
        return Value(tuple(aval.shape), np.dtype(aval.dtype), held, name)

    def held(self, value: Value) -> str:
        """The name of a value, with ones where it is broadcast."""
        if value.array is not None:
            return self.constant(value.array)
        if value.conv is None:
            return value.name
        if id(value.conv) not in self._written:
            x, kernel, bias, attributes = value.conv
            y = self.op("Conv", x, kernel, bias, **attributes)
            y = self.op("Transpose", y, perm=[0, 2, 3, 1])
            self._written[id(value.conv)] = value.conv, y  # keeps the id taken
        return self._written[id(value.conv)][1]

    def full(self, value: Value) -> str:
        """The name of a value in its whole shape."""
        name = self.held(value)
        if value.held == value.shape:
            return name
        return self.op("Expand", name, np.array(value.shape, np.int64))

    def run(self, jaxpr, constants: Sequence[Value], inputs: Sequence[Value]):
        """Translates the equations of a jaxpr; returns its outputs.

        Errors: ValueError naming a primitive that has no translation.
        """
        names = {
            **dict(zip(jaxpr.constvars, constants, strict=True)),
            **dict(zip(jaxpr.invars, inputs, strict=True)),
        }

        def read(atom) -> Value:
            if isinstance(atom, jex.Literal):
                dtype = atom.aval.dtype  # type: ignore[attr-defined]
                return self.known(np.asarray(atom.val, dtype))
            return names[atom]

        for eqn in jaxpr.eqns:
            made = self._equation(eqn, [read(atom) for atom in eqn.invars])
            names.update(zip(eqn.outvars, made, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, eqn, inputs: list[Value]) -> list[Value]:
        kind = eqn.primitive.name
        if any(str(v.aval.dtype) in SHORT for v in eqn.outvars):
            raise ValueError("ONNX is in float32: add --config.model.dtype=float32")
        if kind in CALLS:
            return self._closed(eqn.params[CALLS[kind]], inputs)
        if kind == "platform_index":  # of lax.platform_dependent: take what is for all
            return [self.known(np.int32(eqn.params["platforms"].index(None)))]
        if kind == "cond" and inputs[0].array is not None:
            return self._closed(eqn.params["branches"][inputs[0].array], inputs[1:])
        if kind == "while":
            return self._while(eqn.params, inputs)
        if kind == "scan":
            return self._scan(eqn, inputs)
        if all(x.array is not None for x in inputs) and kind != "broadcast_in_dim":
            if all(np.prod(v.aval.shape) <= LARGEST for v in eqn.outvars):
                return self._computed(eqn, inputs, kind in self.rules.alike)
        if kind in self.rules.alike:
            return [self.rules.elementwise(self, eqn, inputs)]
        if kind not in self.rules.others:
            raise ValueError(f"no translation to ONNX for JAX's primitive {kind}")
        found = self.rules.others[kind](self, eqn, inputs)
        return found if isinstance(found, list) else [found]

    def _computed(self, eqn, inputs, elementwise: bool) -> list[Value]:
        """The results of an equation on constants, computed by JAX."""
        arrays = [np.broadcast_to(x.array, x.shape) for x in inputs]
        if elementwise:
            held = np.broadcast_shapes(*(x.held for x in inputs))
            arrays = [np.broadcast_to(x.array, held) for x in inputs]
        found = eqn.primitive.bind(*map(jax.numpy.asarray, arrays), **eqn.params)
        found = found if eqn.primitive.multiple_results else [found]
        shapes = [tuple(v.aval.shape) for v in eqn.outvars]
        return [
            self.known(np.asarray(x), s) for x, s in zip(found, shapes, strict=True)
        ]

    def _while(self, params, inputs: list[Value]) -> list[Value]:
        split = np.cumsum([params["cond_nconsts"], params["body_nconsts"]])
        # Written before the body, which reads them from outside.
        cond_consts = self._named(inputs[: split[0]])
        body_consts = self._named(inputs[split[0] : split[1]])
        state, inner = inputs[split[1] :], params["body_jaxpr"]

        def goes_on(graph: Graph, values) -> Value:
            return graph._closed(params["cond_jaxpr"], [*cond_consts, *values])[0]

        first = self._any(goes_on(self, state))
        body = Graph(self.rules, self)
        own = [self.made(self.fresh("state"), v.aval) for v in inner.jaxpr.outvars]
        after = body._closed(inner, [*body_consts, *own])
        on = goes_on(body, own)
        ends = [
            body.op("Identity", body._where(on, new, old))
            for new, old in zip(after, own, strict=True)
        ]
        after = [replace(v, name=end) for v, end in zip(own, ends, strict=True)]
        again = body.op("Identity", body._any(goes_on(body, after)))
        scalar = helper.make_tensor_value_info
        turn = scalar(self.fresh("turn"), onnx.TensorProto.INT64, [])
        before = scalar(self.fresh("before"), onnx.TensorProto.BOOL, [])
        last = scalar(again, onnx.TensorProto.BOOL, [])
        graph = helper.make_graph(
            body.nodes,
            self.fresh("loop"),
            [turn, before, *map(info, own)],
            [last, *map(info, after)],
        )
        starts = [self.full(x) for x in state]
        outputs = self._several("Loop", ["", first, *starts], len(own), body=graph)
        return [replace(v, name=n) for v, n in zip(own, outputs, strict=True)]

    def _closed(self, closed, inputs: list[Value]) -> list[Value]:
        return self.run(closed.jaxpr, list(map(self.known, closed.consts)), inputs)

    def _any(self, value: Value) -> str:
        """Whether any of the elements of a batched condition holds."""
        name = self.full(value)
        if not value.shape:
            return name
        name = self.op("Cast", name, to=onnx.TensorProto.UINT8)
        name = self.op("ReduceMax", name, keepdims=0)
        return self.op("Cast", name, to=onnx.TensorProto.BOOL)

    def _where(self, on: Value, new: Value, old: Value) -> str:
        """The new state of those elements of a batch that go on, else the old one."""
        if not on.shape:
            return self.full(new)
        ones = [1] * (len(new.shape) - len(on.shape))
        wide = np.array([*on.shape, *ones], np.int64)
        mask = self.op("Reshape", self.full(on), wide)
        return self.choice(mask, self.full(new), self.full(old), new.dtype)

    def choice(self, on: str, then: str, other: str, dtype) -> str:
        """`then` where `on` holds, else `other`; onnxruntime has no Where of bools."""
        if dtype != np.bool_:
            return self.op("Where", on, then, other)
        no = self.op("And", self.op("Not", on), other)
        return self.op("Or", self.op("And", on, then), no)

    def _scan(self, eqn, inputs: list[Value]) -> list[Value]:
        params = eqn.params
        if params["reverse"]:
            raise ValueError("no translation to ONNX for a scan from behind")
        held, carried = params["num_consts"], params["num_carry"]
        consts = self._named(inputs[:held])
        rest, inner = inputs[held:], params["jaxpr"]
        body = Graph(self.rules, self)
        avals = [v.aval for v in inner.jaxpr.invars[held:]]
        own = [self.made(self.fresh("part"), aval) for aval in avals]
        after = body._closed(inner, [*consts, *own])
        ends = [
            self.made(body.op("Identity", body.full(x)), v.aval)
            for x, v in zip(after, inner.jaxpr.outvars, strict=True)
        ]
        graph = helper.make_graph(
            body.nodes, self.fresh("scan"), [*map(info, own)], [*map(info, ends)]
        )
        starts = [self.full(x) for x in rest]
        outputs = self._several(
            "Scan",
            starts,
            len(ends),
            body=graph,
            num_scan_inputs=len(rest) - carried,
        )
        made = zip(outputs, eqn.outvars, strict=True)
        return [self.made(name, v.aval) for name, v in made]

    def _several(self, kind, inputs, outputs, **attributes) -> list[str]:
        found = self.op(kind, *inputs, outputs=outputs, **attributes)
        return [found] if outputs == 1 else found

    def _named(self, values: Sequence[Value]) -> list[Value]:
        """Values that bodies may read: convolutions are written."""
        return [
            v if v.conv is None else replace(v, name=self.held(v), conv=None)
            for v in values
        ]


def info(value: Value) -> onnx.ValueInfoProto:
    """Name, type and shape of an input or output."""
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    return helper.make_tensor_value_info(value.name, kind, value.shape)
