"""The charts of a report as pictures, for papers and mails. Pillow only."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from frcnn_jax import vis
from frcnn_jax.pages import charts

SCALE = 3  # pixels of a unit
PAPER, INK, SOFT, GRID = "white", "#1d2430", "#5c6675", "#d9dde3"
TEXT, HEAD, GAP = 11, 14, 46  # units: letters, title, room above a chart
TITLE, BAR, ROOM = 30, 24, 110  # units: above bars, of a bar's row, of its name


def lines(chart: charts.Chart) -> Image.Image:
    """Paint a chart of lines with its title and legend."""
    rows = _legend_rows(chart)
    height = charts.HEIGHT + GAP + 18 * len(rows)
    page = Image.new("RGB", (charts.WIDTH * SCALE, height * SCALE), PAPER)
    canvas, axes = ImageDraw.Draw(page), charts.frame(chart)
    _write(canvas, (8, 20), chart.title, size=HEAD, ink=INK)
    x0, x1, y0, _ = axes.span
    for tick in axes.y_ticks:
        (left, y), (right, _) = axes.place(x0, tick), axes.place(x1, tick)
        canvas.line(_pixels([(left, y), (right, y)]), GRID, SCALE // 2)
        _write(canvas, (left - 5, y + GAP + 4), charts.told(tick), anchor="rs")
    for tick in axes.x_ticks:
        x, y = axes.place(tick, y0)
        canvas.line(_pixels([(x, y), (x, y + 4)]), SOFT, SCALE // 2)
        _write(canvas, (x, y + GAP + 16), charts.told(tick), anchor="ms")
    for line in chart.lines:
        _line(canvas, line, axes)
    middle = charts.LEFT + (charts.WIDTH - charts.LEFT - charts.RIGHT) / 2
    foot = charts.HEIGHT + GAP
    _write(canvas, (middle, foot - 5), chart.x_label, anchor="ms")
    _write(canvas, (8, 40), chart.y_label)
    for k, row in enumerate(rows):
        for x, line in row:
            y = foot + 18 * k
            box = [v * SCALE for v in (x, y + 3, x + 14, y + 6)]
            canvas.rectangle(box, line.color)
            _write(canvas, (x + 18, y + 9), vis.readable(line.name, 0), ink=INK)
    return page


def bars(title: str, values: Mapping[str, float], texts: Sequence[str]) -> Image.Image:
    """Paint horizontal bars: name, bar, text behind it."""
    size = charts.WIDTH, TITLE + BAR * len(values) + 8
    page = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), PAPER)
    canvas, top = ImageDraw.Draw(page), max([*values.values(), 1e-9])
    _write(canvas, (8, 20), title, size=HEAD, ink=INK)
    for k, ((name, value), text) in enumerate(zip(values.items(), texts, strict=True)):
        y = TITLE + k * BAR
        long = max((size[0] - 2 * ROOM) * value / top, 0.5)
        _write(canvas, (ROOM - 6, y + 15), vis.readable(name, k), anchor="rs")
        box = [v * SCALE for v in (ROOM, y + 3, ROOM + long, y + BAR - 5)]
        canvas.rectangle(box, charts.COLORS[0])
        _write(canvas, (ROOM + long + 6, y + 15), text, ink=INK)
    return page


def stacked(pages: Sequence[Image.Image]) -> Image.Image:
    """Put pictures of equal width below each other."""
    sheet = Image.new("RGB", (pages[0].width, sum(p.height for p in pages)), PAPER)
    top = 0
    for page in pages:
        sheet.paste(page, (0, top))
        top += page.height
    return sheet


def save(page: Image.Image, path: Path) -> None:
    """Write a PNG."""
    page.save(path, "PNG", optimize=True)


def _line(canvas: ImageDraw.ImageDraw, line: charts.Line, axes: charts.Frame) -> None:
    width = max(1, round(line.width * SCALE))
    for part in charts.runs(line):
        points = _pixels([axes.place(x, y) for x, y in part])
        if len(points) == 1:
            (x, y), r = points[0], 3 * SCALE
            canvas.ellipse((x - r, y - r, x + r, y + r), line.color)
        elif line.dashed:
            _dashes(canvas, points, line.color, width)
        else:
            canvas.line(points, line.color, width, joint="curve")


def _dashes(canvas: ImageDraw.ImageDraw, points, color: str, width: int) -> None:
    """Only the first and the last point count: dashed lines here are straight."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    count = max(1, int(max(abs(x1 - x0), abs(y1 - y0)) / (9 * SCALE)))
    for k in range(count):
        a, b = k / count, (k + 0.55) / count
        ends = [(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in (a, b)]
        canvas.line(ends, color, width)


def _legend_rows(chart: charts.Chart) -> list[list[tuple[float, charts.Line]]]:
    """The lines of the legend, row by row, each with its place from the left."""
    listed = [line for line in chart.lines if line.listed]
    rows: list[list[tuple[float, charts.Line]]] = []
    x = float(charts.WIDTH)
    for line in listed if len(listed) > 1 else ():
        name = vis.readable(line.name, 0)
        wide = vis.font(TEXT * SCALE).getlength(name) / SCALE + 34
        if x + wide > charts.WIDTH:
            rows.append([])
            x = 12.0
        rows[-1].append((x, line))
        x += wide
    return rows


def _pixels(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x * SCALE, (y + GAP) * SCALE) for x, y in points]


def _write(
    canvas: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    *,
    size: int = TEXT,
    ink: str = SOFT,
    anchor: str = "ls",
) -> None:
    place = at[0] * SCALE, at[1] * SCALE
    canvas.text(place, text, ink, vis.font(size * SCALE), anchor=anchor)
