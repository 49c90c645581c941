"""Run docs/walkthrough.md and take its pictures: python tools/pictures.py.

    python tools/pictures.py --folder=build/walkthrough

Every command of the page runs in that folder, whose scripts are links to these; what it
prints is kept in `printed.txt` there, to be pasted into the page. A training that is
there goes on, so a second time is quick. The pictures go to docs/images. Needs Chromium
for those of pages.
"""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "walkthrough.md"
IMAGES = ROOT / "docs" / "images"
SCRIPTS = ("train.py", "eval.py", "predict.py", "convert.py")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUALITY = 85  # of JPEG: each picture stays under 200 kB


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of every fenced block of a page."""
    yield from re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.S | re.M)


def commands(page: Path) -> list[str]:
    """Lines of the page's ```bash blocks, without comments."""
    lines = [
        line.split(" #")[0].strip()
        for language, text in blocks(page)
        if language == "bash"
        for line in text.splitlines()
    ]
    return [line for line in lines if line and not line.startswith("#")]


def files(page: Path) -> dict[str, str]:
    """{name: text} of the Python blocks that begin with `# NAME.py`."""
    texts = [text for language, text in blocks(page) if language == "python"]
    named = {found[1]: t for t in texts if (found := re.match(r"# (\w+\.py)\n", t))}
    return named


def start(words: Sequence[str], folder: Path) -> tuple[subprocess.Popen, str]:
    """A server that runs, and the line in which it tells its address."""
    server = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True)
    told = ""
    for line in server.stdout:
        told += line
        if "http://" in line:
            return server, told
    server.communicate()
    raise RuntimeError(f"{shlex.join(words)} ended before it served:\n{told}")


def walk(folder: Path) -> None:
    """Runs every command of the page and keeps what is printed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*SCRIPTS, "configs", "frcnn_jax", "tools"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    shutil.rmtree(folder / "exported", ignore_errors=True)  # never written over
    for name, text in files(PAGE).items():
        (folder / name).write_text(text)
    servers, printed = [], (folder / "printed.txt").open("w")
    try:
        for command in commands(PAGE):
            words = shlex.split(command)
            words = [sys.executable if word == "python" else word for word in words]
            print(f"$ {command}", file=printed, flush=True)
            if words[-1] == "&":
                server, told = start(words[:-1], folder)
                servers.append(server)
                print(told, file=printed, flush=True)
                continue
            print(command, flush=True)
            subprocess.run(words, cwd=folder, check=True, stdout=printed)
    finally:
        for server in servers:
            server.terminate()
        printed.close()


def screenshot(page: Path, height: int) -> Image.Image:
    """The upper part of a page, 900 pixels wide."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise FileNotFoundError(f"no browser found: install one of {BROWSERS}")
    with tempfile.TemporaryDirectory() as place:
        shot = Path(place) / "page.png"
        options = [f"--user-data-dir={place}/profile", f"--screenshot={shot}"]
        options += ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--window-size=900,{height}", page.resolve().as_uri()]
        subprocess.run([browser, *options], check=True, capture_output=True)
        return Image.open(shot).convert("RGB")


def beside(paths: Sequence[Path], columns: int) -> Image.Image:
    """Pictures in rows of equal cells, made smaller where they are wider than 900."""
    opened = [Image.open(path).convert("RGB") for path in paths]
    width = max(image.width for image in opened)
    height = max(image.height for image in opened)
    rows = -(-len(opened) // columns)
    sheet = Image.new("RGB", (width * columns, height * rows), "white")
    for place, image in enumerate(opened):
        sheet.paste(image, (place % columns * width, place // columns * height))
    sheet.thumbnail((900, 900))
    return sheet


def take(folder: Path) -> dict[str, Image.Image]:
    """The pictures of the page by the names of their files."""
    run = folder / "runs" / "mine"
    panels = sorted((run / "pictures").glob("val_*.jpg"))[1:3]
    curves = Image.open(run / "report_precision_recall.png").convert("RGB")
    curves = curves.crop((0, 0, curves.width, curves.height // 2))  # of IoU 0.5
    curves.thumbnail((600, 600))
    return {
        "check.jpg": screenshot(folder / "check.html", 900),
        "panels.jpg": beside(panels, 1),
        "report.jpg": screenshot(run / "report.html", 760),
        "precision_recall.jpg": curves,
        "found.jpg": beside(sorted((run / "found").glob("val_*.jpg")), 4),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default="build/walkthrough", type=Path)
    parser.add_argument("--only-pictures", action="store_true", help="run nothing")
    asked = parser.parse_args(arguments)
    if not asked.only_pictures:
        walk(asked.folder)
    for name, picture in take(asked.folder).items():
        picture.save(IMAGES / name, quality=QUALITY, optimize=True)
        print(f"{IMAGES.name}/{name}: {(IMAGES / name).stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
