"""Write the reference of every module from its docstrings: python tools/api.py.

    python tools/api.py --out=build/api

Needs pdoc. What pdoc cannot read (a name that does not resolve, an annotation that does
not evaluate) is an error here, so that the pages stay whole.
"""

import argparse
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs uninstalled too

import frcnn_jax  # noqa: E402

# What annotations are evaluated to, and what the source has there.
SHORT = {
    "jaxtyping.": "",
    "jaxlib._jax.Array": "Array",
    "Union[str, type[Any], numpy.dtype, jax._src.typing.SupportsDType]": "DTypeLike",
    "Union[flax.linen.module.Module, flax.core.scope.Scope,"
    " flax.linen.module._Sentinel, NoneType]": "Module | Scope | None",
    "flax.linen.module.Module": "nn.Module",
    "&lt;flax.linen.module._Sentinel object&gt;": "...",
}
TAGS = r"(?:</?span[^>]*>)*"


def modules() -> Iterator[str]:
    """What pdoc is given: it finds the rest, except below an `__all__`."""
    yield frcnn_jax.__name__
    found = pkgutil.walk_packages(frcnn_jax.__path__, f"{frcnn_jax.__name__}.")
    for name in (each.name for each in found):
        parent = sys.modules[name.rpartition(".")[0]]
        if hasattr(parent, "__all__") and not name.endswith("__main__"):
            yield name


def write(out: Path, names: Sequence[str] = ()) -> None:
    """Writes the pages of all modules, or of some, and of what lies below them."""
    import pdoc

    # Made on first use, and pdoc looks for what is there already.
    frcnn_jax.Predictor = frcnn_jax.Predictor
    pages = Path(__file__).with_name("api_pages")
    pdoc.render.configure(docformat="markdown", template_directory=pages)
    pdoc.pdoc(*(names or modules()), output_directory=out)
    for page in out.rglob("*.html"):
        page.write_text(readable(page.read_text()))


def readable(page: str) -> str:
    """A page with the short names of types; the tags of their colours stay."""
    for long, short in SHORT.items():
        pattern = TAGS.join(map(re.escape, re.findall(r"\w+|\W", long)))
        page = re.sub(
            pattern,
            lambda found, short=short: "".join(re.findall("<[^>]*>", found[0])) + short,
            page,
        )
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="build/api", type=Path, help="folder to write")
    asked = parser.parse_args(arguments)
    warnings.simplefilter("error")
    # Initialisers of JAX, whose annotations only JAX can read.
    warnings.filterwarnings("ignore", r".* for frcnn_jax\.models\.layers\.DECLARED")
    write(asked.out)
    print(f"{len(list(asked.out.rglob('*.html')))} pages: {asked.out / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
