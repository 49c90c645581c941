"""The reference of modules: pdoc sees every module, and types are short to read."""

import warnings
from pathlib import Path

import pytest

from tools import api

pdoc = pytest.importorskip("pdoc")
ROOT = Path(__file__).resolve().parents[2]


def test_every_module_has_a_page():
    files = ROOT.glob("frcnn_jax/**/*.py")
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in files]
    named = {".".join(each).removesuffix(".__init__") for each in parts}
    named = {name for name in named if not name.endswith("__main__")}
    seen = list(pdoc.extract.walk_specs(list(api.modules())))
    assert {name for name in seen if not name.endswith("__main__")} == named


def test_pages_are_written_without_a_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        api.write(tmp_path, ["frcnn_jax", "frcnn_jax.models.fpn"])
    assert "Load a model onto" in (tmp_path / "frcnn_jax.html").read_text()
    fpn = (tmp_path / "frcnn_jax/models/fpn.html").read_text()
    assert 'id="FPN.channels"' in fpn
    assert 'id="FPN.parent"' not in fpn  # a field of every Flax module
    assert "jaxlib" not in fpn.split("</main>")[0].split('id="FPN.channels"')[1]


def test_a_long_type_is_shortened_and_keeps_its_tags():
    page = '<span class="n">jaxtyping</span><span class="o">.</span><b>Float</b>'
    empty = '<span class="n"></span><span class="o"></span>'
    assert api.readable(page) == f"{empty}<b>Float</b>"
    assert api.readable("Union[str, int]") == "Union[str, int]"
