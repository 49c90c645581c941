"""Writes the files of this folder with real torch; run by hand, never by tests.

python tests/golden/torch_files/make.py
"""

import pickle
import sys
import types
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import recipe
import torch

HERE = Path(__file__).parent


def fake(module: str, name: str, base: type = object) -> type:
    """A class that pickles under a name of a library that is not installed."""
    made = type(name, (base,), {"__module__": module})
    sys.modules.setdefault(module, types.ModuleType(module))
    setattr(sys.modules[module], name, made)
    for end in range(1, module.count(".") + 1):
        parent = module.rsplit(".", end)[0]
        sys.modules.setdefault(parent, types.ModuleType(parent))
    return made


HistoryBuffer = fake("mmengine.logging.history_buffer", "HistoryBuffer")
ConfigDict = fake("mmengine.config.config", "ConfigDict", dict)
Scheduler = fake("mmengine.optim.scheduler", "MultiStepLR")


def tensors(arrays: dict) -> OrderedDict:
    state = OrderedDict((k, torch.tensor(v)) for k, v in arrays.items())
    state._metadata = OrderedDict({"": {"version": 2}})
    return state


def plain() -> OrderedDict:
    state = tensors(recipe.plain())
    state["transposed"] = state["matrix"].T
    state["parameter"] = torch.nn.Parameter(state["parameter"])
    shared = state["shared"]
    state["shared_rows"] = shared[2:4]
    state["shared_column"] = shared[:, 1]
    state["shared_every_second"] = shared[1::2, ::2]
    state["bfloat16"] = state["bfloat16"].bfloat16()
    state["bfloat16_column"] = state["bfloat16"][:, 2]
    state["float64"].note = "a tensor with an attribute"
    return state


def history() -> HistoryBuffer:
    buffer = HistoryBuffer()
    buffer._log_history = np.array([0.5, 0.25])
    buffer._statistics_methods = {"mean": None}
    return buffer


def optimizer() -> dict:
    layer = torch.nn.Linear(3, 2)
    sgd = torch.optim.SGD(layer.parameters(), lr=0.02, momentum=0.9)
    layer(torch.ones(1, 3)).sum().backward()
    sgd.step()
    return sgd.state_dict()


def mmdet3() -> dict:
    schedule = Scheduler()
    schedule.milestones = {8: 1, 11: 1}
    return {
        "meta": {
            "cfg": "model = dict(type='FasterRCNN')\n" * 40,
            "dataset_meta": {"CLASSES": recipe.CLASSES, "palette": [(1, 2, 3)]},
            "epoch": 12,
            "iter": np.int64(87961),
            "seed": None,
            "env": ConfigDict(gpu=1),
            "hooks": [history()],
        },
        "state_dict": tensors(recipe.weights()),
        "message_hub": {"log_scalars": OrderedDict(loss=history())},
        "optimizer": optimizer(),
        "param_schedulers": [vars(schedule)],
        "ema_state_dict": tensors(recipe.weights(99)),
    }


def mmdet2() -> dict:
    meta = {"CLASSES": list(recipe.CLASSES), "epoch": 12, "mmdet_version": "2.0.0"}
    return {"meta": meta, "state_dict": tensors(recipe.weights())}


def jwyang() -> dict:
    return {
        "session": 1,
        "epoch": 7,
        "model": tensors({f"module.{k}": v for k, v in recipe.weights().items()}),
        "optimizer": optimizer(),
        "pooling_mode": "align",
        "class_agnostic": False,
    }


def detectron2() -> dict:
    model = recipe.weights() | {"fortran": np.asfortranarray(recipe.values(20, 3, 2))}
    model["scalar"] = np.array(3, np.int64)
    extras = {"__author__": "Detectron2 Model Zoo", "matching_heuristics": True}
    return {"model": model, **extras, "counts": defaultdict(int, a=1)}


class Python2(pickle._Pickler):
    """Writes str and bytes as Python 2 wrote its str."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_old(self, value: str | bytes) -> None:
        data = value.encode("latin1") if isinstance(value, str) else value
        short = len(data) < 256
        head = (
            b"U" + bytes([len(data)])
            if short
            else b"T" + len(data).to_bytes(4, "little")
        )
        self.write(head + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_old


def python2() -> None:
    blobs = recipe.weights() | {"long": recipe.values(30, 100)}
    with open(HERE / "python2.pkl", "wb") as file:
        Python2(file, protocol=2).dump({"blobs": blobs, "cfg": "MODEL: x\n" * 10})
    data = (HERE / "python2.pkl").read_bytes()
    data = data.replace(b"cnumpy._core.", b"cnumpy.core.")
    (HERE / "python2.pkl").write_bytes(data)


def main() -> None:
    save = torch.save
    save(plain(), HERE / "zip.pth")
    save(plain(), HERE / "zip_protocol4.pt", pickle_protocol=4)
    save(plain(), HERE / "legacy.pth", _use_new_zipfile_serialization=False)
    save(mmdet3(), HERE / "mmdet3.pth")
    save(mmdet2(), HERE / "mmdet2.pth", _use_new_zipfile_serialization=False)
    save(jwyang(), HERE / "jwyang.pth", _use_new_zipfile_serialization=False)
    for protocol in (2, 5):
        with open(HERE / f"detectron2_protocol{protocol}.pkl", "wb") as file:
            pickle.dump(detectron2(), file, protocol)
    python2()

    layer = torch.nn.Linear(2, 1)
    save({"state_dict": {"w": torch.eye(2).to_sparse()}}, HERE / "sparse.pth")
    quantised = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    save({"state_dict": {"w": quantised}}, HERE / "quantised.pth")
    save({"model": layer}, HERE / "whole_model.pth")
    save(layer, HERE / "whole_model_legacy.pth", _use_new_zipfile_serialization=False)
    torch.jit.script(layer).save(HERE / "script.pt")
    print(torch.__version__, sum(f.stat().st_size for f in HERE.glob("*.p[tk]*")))


if __name__ == "__main__":
    main()
