"""`calicoctl ipam show --html`: the map as one page that needs nothing else, for any browser, light or dark.

Styles and script are in the page, and its Content-Security-Policy names them by their digests: nothing else would run,
even if text from a record got into the page as more than text. Without the script, cells have plain tooltips.
"""

from __future__ import annotations

import base64
import hashlib
import html
import time
from typing import TYPE_CHECKING

from calicoctl.ipam.chart import FREE, OURS, RESERVED, Gap, Shape, chart
from calicoctl.ipam.facts import LEVELS, block_count, facts, in_use_by_kind, left_out, meanings, nodes_of
from calicoctl.table import amount, printable
from ipam.cidr import Address
from ipam.utilization import node_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from calicoctl.ipam.chart import Cell, Chart, Item, Survey
    from ipam.cidr import Cidr
    from ipam.utilization import BlockUsage, PoolUsage

SHAPE = Shape(per_row=64, most_rows=256)
BAR = 1000  # units of length in a gauge
MOST_TOLD = 8  # blocks in a tooltip
MOST_NODES = 20  # in a table

STYLE = """\
:root { color-scheme: light dark; --back: #fff; --text: #1d2330; --dim: #667085; --line: #d5dae3; --tip: #1d2330;
  --tiptext: #fff; --free: #eef0f4; --reserved: #b9a5d8; --ours: 22 163 74; --other: 37 99 235; --borrowed: 217 119 6;
  --lost: 220 38 38; --cooling: 8 145 178; --mixed: 100 116 139; }
@media (prefers-color-scheme: dark) { :root { --back: #11151c; --text: #e6e9ef; --dim: #98a2b3; --line: #2b3340;
  --tip: #e6e9ef; --tiptext: #11151c; --free: #1b212b; --reserved: #6d4f9c; --ours: 74 222 128; --other: 96 165 250;
  --borrowed: 251 191 36; --lost: 248 113 113; --cooling: 34 211 238; --mixed: 148 163 184; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 6rem; max-width: 76rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
h2 code { color: var(--dim); font-weight: normal; margin-left: .6rem; }
p { margin: .3rem 0; color: var(--dim); } p b { color: var(--text); }
code, td, th { font-family: ui-monospace, monospace; font-size: .85rem; }
svg { display: block; width: 100%; height: 14px; border-radius: 4px; background: var(--free); margin: .4rem 0; }
svg .ours { fill: rgb(var(--ours)); } svg .other { fill: rgb(var(--other)); } svg .lost { fill: rgb(var(--lost)); }
.map { display: grid; grid-template-columns: max-content 1fr; gap: 2px .8rem; margin: 1rem 0; align-items: center; }
.map > code { color: var(--dim); text-align: right; line-height: 1; font-size: .72rem; }
.row { display: grid; grid-template-columns: repeat(64, minmax(0, 1fr)); gap: 2px; }
.gap { color: var(--dim); font-size: .85rem; padding: .3rem 0; }
i { display: block; width: 100%; aspect-ratio: 1; min-height: 5px; border-radius: 2px; background: var(--free); }
i.reserved { background: repeating-linear-gradient(45deg, var(--reserved) 0 2px, var(--free) 2px 5px); }
i.ours { --c: var(--ours); } i.other { --c: var(--other); } i.borrowed { --c: var(--borrowed); }
i.lost { --c: var(--lost); } i.cooling { --c: var(--cooling); } i.mixed { --c: var(--mixed); }
i[class*=" l"] { background: rgb(var(--c) / var(--a)); box-shadow: inset 0 0 0 1px rgb(var(--c) / .75); }
i.l0 { --a: .08; } i.l1 { --a: .3; } i.l2 { --a: .5; } i.l3 { --a: .72; } i.l4 { --a: 1; }
i:hover { outline: 2px solid var(--text); } .seek .row i:not(.hit) { opacity: .15; }
.legend { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; margin: 1rem 0; color: var(--dim); }
.legend span { display: flex; align-items: center; gap: .45rem; white-space: nowrap; } .legend i { width: 14px; }
input { font: inherit; color: inherit; background: transparent; border: 1px solid var(--line); border-radius: 6px;
  padding: .3rem .6rem; width: 20rem; max-width: 100%; }
table { border-collapse: collapse; margin: .5rem 0; } th { text-align: left; color: var(--dim); font-weight: normal; }
td, th { padding: .1rem 1.4rem .1rem 0; } td.n, th.n { text-align: right; }
summary { cursor: pointer; color: var(--dim); }
#tip { position: fixed; pointer-events: none; z-index: 1; max-width: 32rem; padding: .4rem .7rem; border-radius: 6px;
  white-space: pre-line; overflow-wrap: anywhere; background: var(--tip); color: var(--tiptext); font-size: .85rem; }
#tip[hidden] { display: none; }
"""

SCRIPT = """\
const tip = document.getElementById("tip"), seek = document.getElementById("seek");
const cells = [...document.querySelectorAll(".row i")];
for (const cell of cells) { cell.dataset.tip = cell.title; cell.removeAttribute("title"); }
document.addEventListener("mousemove", event => {
  const text = event.target.dataset ? event.target.dataset.tip : "";
  tip.hidden = !text;
  if (!text) return;
  tip.textContent = text;
  tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = Math.min(event.clientY + 18, innerHeight - tip.offsetHeight - 8) + "px";
});
seek.hidden = false;
seek.addEventListener("input", () => {
  document.body.classList.toggle("seek", seek.value !== "");
  for (const cell of cells) cell.classList.toggle("hit", cell.dataset.tip.includes(seek.value));
});
"""


def page(found: Survey) -> str:
    """Return the whole page."""
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Survey) -> Iterator[str]:
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    policy = f"default-src 'none'; style-src {_digest(STYLE)}; script-src {_digest(SCRIPT)}"
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>Addresses in use</title>'
    yield f"<style>{STYLE}</style>\n</head>\n<body>"
    yield f"<h1>Addresses in use</h1>\n<p>{now}, seen from node <b>{escape(found.node)}</b></p>"
    yield from _legend(found.node)
    yield '<input id="seek" type="search" placeholder="Node, block, pod or address …" aria-label="Find" hidden>'
    for pool, usage, items in found.pools:
        yield from _pool(chart(pool, usage, items, found.reserved, SHAPE), found.node)
    if found.without_pool:
        yield f"<h2>Blocks in no pool</h2>\n{_block_table(found.without_pool)}"
    yield f'<div id="tip" role="tooltip" hidden></div>\n<script>{SCRIPT}</script>\n</body>\n</html>'


def _digest(text: str) -> str:
    """Return the digest by which a policy names an inline style or script (CSP Level 3, section 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _legend(node: str) -> Iterator[str]:
    yield '<div class="legend">'
    for kind, meaning in meanings(node).items():
        yield f'<span><i class="{_class(kind, 2)}"></i>{escape(meaning)}</span>'
    yield '</div>\n<div class="legend">'
    for level, name in enumerate(LEVELS):
        yield f'<span><i class="{_class(OURS, level)}"></i>{name}</span>'
    yield "</div>"


def _class(kind: str, level: int) -> str:
    return kind if kind in (FREE, RESERVED) else f"{kind} l{level}"


def _pool(drawn: Chart, node: str) -> Iterator[str]:
    usage = drawn.usage
    counts, scale = facts(drawn)
    yield f"<section>\n<h2>{escape(usage.name)}<code>{escape(usage.cidr)}</code></h2>"
    yield _gauge(usage, node)
    yield f"<p>{counts}; {scale}</p>"
    yield '<div class="map">'
    for line in drawn.lines:
        if isinstance(line, Gap):
            yield f'<code>{_start(line.cidr)}</code><div class="gap">⋮ {left_out(line, drawn)}</div>'
        else:
            cells = "".join(map(_cell, line.cells))
            yield f'<code>{_start(line.cells[0].cidr)}</code><div class="row">{cells}</div>'
    yield "</div>"
    yield _node_table(usage.blocks)
    yield f"<details><summary>{block_count(len(usage.blocks))}</summary>\n{_block_table(usage.blocks)}</details>"
    yield "</section>"


def escape(text: str) -> str:
    """Return text from a record as HTML that shows just it, characters without a shape as their escapes."""
    return html.escape(printable(text))


def _start(cidr: Cidr) -> str:
    return str(Address(cidr.family, cidr.first))


def _cell(cell: Cell) -> str:
    return f'<i class="{_class(cell.kind, cell.level)}" title="{_tip(cell)}"></i>'


def _tip(cell: Cell) -> str:
    """Return what a cell's tooltip says: its range, its use, and whose it is; of several blocks, of the first few."""
    if not cell.items:
        return f"{cell.cidr} {cell.kind}"
    lines = [_item(item) for item in cell.items[:MOST_TOLD]]
    if len(cell.items) > 1:
        lines.insert(0, f"{cell.cidr}: {cell.in_use} of {amount(cell.total)} in use in {block_count(len(cell.items))}")
    return "\n".join(lines)


def _item(item: Item) -> str:
    owner = escape(item.node or "no node")
    if item.cidr.size == 1:
        return f"{item.cidr.address(0)}: {escape(item.holder) or item.kind}\nin a block of {owner}"
    return f"{item.cidr}: {item.in_use} of {item.cidr.size} in use, {owner}"


def _gauge(usage: PoolUsage, node: str) -> str:
    """Return a bar of a pool's use, with a part for the blocks of this node, of other nodes, and of none."""
    bars, done = [], 0
    for kind, count in in_use_by_kind(usage.blocks, node).items():
        width = min(max(BAR * count // usage.total, int(count > 0)), BAR - done)
        bars.append(f'<rect class="{kind}" x="{done}" width="{width}" height="1"/>')
        done += width
    return f'<svg viewBox="0 0 {BAR} 1" preserveAspectRatio="none" aria-hidden="true">{"".join(bars)}</svg>'


def _node_table(blocks: Iterable[BlockUsage]) -> str:
    rows = "".join(f"<tr><td>{escape(name or 'no node')}</td><td class=n>{many}</td><td class=n>{in_use}</td></tr>\n"
                   for name, many, in_use in nodes_of(blocks)[:MOST_NODES])
    return ('<table><tr><th>Node</th><th class=n>Blocks</th><th class=n>In use</th></tr>\n'
            f"{rows}</table>") if rows else ""


def _block_table(blocks: Iterable[BlockUsage]) -> str:
    rows = "".join(
        f"<tr><td>{escape(block.cidr)}</td><td>{escape(node_of(block.affinity) or 'no node')}</td>"
        f"<td class=n>{block.in_use}</td><td class=n>{block.reserved}</td><td class=n>{block.free}</td>"
        f"<td class=n>{block.cooling}</td><td class=n>{block.borrowed}</td></tr>\n" for block in blocks)
    heads = "".join(f"<th class=n>{name}</th>" for name in ("In use", "Reserved", "Free", "Cooling down", "Borrowed"))
    return f"<table><tr><th>Block</th><th>Node</th>{heads}</tr>\n{rows}</table>"
