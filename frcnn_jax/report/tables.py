"""Tables of a page, those with heads to click on included. Texts are escaped here."""

from collections.abc import Sequence
from html import escape
from typing import Any

# Sorts by a click on a head, figures from the largest and texts from A; what has no
# figure stays last. The head marked "first" is clicked once, so that a table comes
# sorted. Opens what is folded before printing.
SCRIPT = """
document.querySelectorAll("table.sort").forEach(function (table) {
  var body = table.tBodies[0], heads = table.tHead.rows[0].cells;
  function key(row, k) { return row.cells[k].getAttribute("data-v"); }
  Array.from(heads).forEach(function (head, k) {
    head.firstChild.addEventListener("click", function () {
      var number = !head.hasAttribute("data-text"), rows = Array.from(body.rows);
      var usual = number ? "descending" : "ascending";
      var down = (head.getAttribute("aria-sort") !== usual) === number;
      rows.sort(function (a, b) {
        var x = key(a, k), y = key(b, k);
        if (x === "" || y === "") return (x === "") - (y === "");
        var order = number ? x - y : x.localeCompare(y, undefined, {numeric: true});
        return down ? -order : order;
      });
      rows.forEach(function (row) { body.appendChild(row); });
      Array.from(heads).forEach(function (one) { one.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
    if (head.hasAttribute("data-first")) head.firstChild.click();
  });
});
addEventListener("beforeprint", function () {
  document.querySelectorAll("details").forEach(function (d) { d.open = true; });
});
"""


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lay out rows of texts and figures; the first column is flush left."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(shown(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return _wide(
        f"<table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table>"
    )


def sortable(head: Sequence[str], rows: Sequence[Sequence[Any]], first: str) -> str:
    """Lay out rows that SCRIPT sorts: column 0 is text, `first` sorts at the start."""
    names = []
    for k, name in enumerate(head):
        marks = (" data-text" if k == 0 else "") + (
            " data-first" if name == first else ""
        )
        button = f'<button type="button">{escape(name)}</button>'
        names.append(f'<th scope="col"{marks}>{button}</th>')
    lines = []
    for row in rows:
        cells = [
            f'<td data-v="{escape("" if cell is None else str(cell))}">'
            f"{escape(shown(cell))}</td>"
            for cell in row
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return _wide(
        f'<table class="sort"><thead><tr>{"".join(names)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def shown(cell: Any) -> str:
    """Return a cell as text: three decimals, thousands parted, "n/a" for None."""
    if cell is None:
        return "n/a"
    if isinstance(cell, float):
        return f"{cell:.3f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _wide(text: str) -> str:
    return f'<div class="wide">{text}</div>'
