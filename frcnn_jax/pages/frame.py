"""The page around figures: one file that needs no network, and its look.

Readable on a phone, in the dark and printed. Pictures go in as data addresses.
"""

import base64
import io
from collections.abc import Iterable
from html import escape

import numpy as np
from PIL import Image

STYLE = """
:root{--ink:#1d2430;--soft:#5c6675;--line:#d9dde3;--paper:#fff;--bar:#3b74b8;
--error:#b3261e;--warn:#8f5b00;--fix:#2f6b3a}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa4b2;--line:#343c48;
--paper:#14181e;--bar:#6fa3dd;--error:#ff8a80;--warn:#e8b04a;--fix:#7fc98c}}
@media print{:root{--ink:#000;--soft:#444;--line:#bbb;--paper:#fff;--bar:#3b74b8;
--error:#b3261e;--warn:#8f5b00;--fix:#2f6b3a}figure,tr{break-inside:avoid}
h2,h3{break-after:avoid}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:1000px;margin:0 auto;padding:16px}
h1{font-size:1.4rem;margin:0;overflow-wrap:anywhere}h2{font-size:1.15rem;
margin:2rem 0 .5rem;border-bottom:1px solid var(--line)}
h3{font-size:1rem;margin:1rem 0 .2rem}p{margin:.3rem 0}.soft,.places{color:var(--soft)}
.verdict{border-left:5px solid;padding:.4rem .8rem;margin:1rem 0;font-weight:600}
.error{color:var(--error)}.warn{color:var(--warn)}.fix{color:var(--fix)}
.wide{overflow-x:auto}table{border-collapse:collapse}
td,th{padding:.1rem .9rem .1rem 0;text-align:right;white-space:pre;
font-variant-numeric:tabular-nums}td:first-child{text-align:left}
tr{border-bottom:1px solid var(--line)}
.grid,.shots{display:flex;flex-wrap:wrap;gap:8px 24px;align-items:flex-start}
.grid figure{flex:1 1 290px;max-width:470px}
.shots{gap:10px;margin:.5rem 0}.shots figure{flex:0 1 220px}
figure{margin:0}figcaption{font-size:.8rem;color:var(--soft);overflow-wrap:anywhere}
img{width:100%;display:block}svg{width:100%;height:auto}
svg rect{fill:var(--bar)}svg text{font:11px system-ui,sans-serif;fill:var(--ink)}
svg .label{fill:var(--soft)}svg .axis{stroke:var(--line)}
.places{font-size:.85rem;margin:.2rem 0;padding-left:1.1rem;overflow-wrap:anywhere}
"""


def document(
    title: str, parts: Iterable[str], style: str = "", script: str = ""
) -> str:
    """Return a whole page; `parts`, `style` and `script` go in as they are."""
    tail = f"\n<script>{script}</script>" if script else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n<body>\n"
        + "\n".join(parts)
        + f"{tail}\n</body></html>\n"
    )


def data_uri(image: np.ndarray, quality: int = 80) -> str:
    """Return [H, W, 3] uint8 RGB as the address of a JPEG that lies in the page."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
