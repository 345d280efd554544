"""Pieces of the one-page report: escaping, tables, figures as data, folded parts, and the style sheet.

The page is one file that needs nothing else: no script, no font, no link to a file. It reads well on a phone (tables
scroll inside themselves, figures shrink), in the dark, and on paper (folded parts stay folded, colours have words
beside them).
"""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

STYLE = """
:root { --ink:#1c1e21; --soft:#5b6168; --line:#dcdfe3; --paper:#fff; --wash:#f5f6f8;
        --right:#0072B2; --wrong:#D55E00; --waste:#8a6d00; }
@media (prefers-color-scheme: dark) {
  :root { --ink:#e6e7e9; --soft:#a3a9b1; --line:#3a3f46; --paper:#17191c; --wash:#22252a;
          --right:#56B4E9; --wrong:#f08a4b; --waste:#e6c34a; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 860px; margin: 0 auto; padding: 1.2rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .6rem 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; border-top: 1px solid var(--line); padding-top: 1.2rem; }
p, li { max-width: 70ch; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.note { border-left: 3px solid var(--line); padding: .2rem .8rem; color: var(--soft); }
figure { margin: 0 0 1rem; }
figure img { width: 100%; height: auto; background: #fff; border-radius: 4px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 9rem; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
.verdict { display: grid; grid-template-columns: 7.2rem 1fr; gap: .2rem .9rem; padding: .7rem 0;
           border-bottom: 1px solid var(--line); }
.verdict b { font-size: .95rem; }
.met { color: var(--right); } .not { color: var(--wrong); } .open { color: var(--soft); }
details { margin: .5rem 0; } summary { cursor: pointer; }
pre { background: var(--wash); padding: .8rem; overflow-x: auto; font-size: .8rem; line-height: 1.4; }
.rollout { border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem; margin: .8rem 0; }
.rollout p { margin: .2rem 0 .5rem; max-width: none; }
.step { display: block; border-left: 4px solid var(--line); padding: .05rem .6rem; margin: .25rem 0; }
.step.right { border-color: var(--right); } .step.wrong { border-color: var(--wrong); }
.step.waste { border-color: var(--waste); border-left-style: dashed; } .step.wrong { border-left-style: double; }
.step small { font-weight: 600; } .wrong small { color: var(--wrong); } .waste small { color: var(--waste); }
@media (max-width: 540px) { .verdict { grid-template-columns: 1fr; } body { font-size: 15px; } }
@media print { :root { --ink:#000; --paper:#fff; --wash:#f5f6f8; } main { max-width: none; padding: 0; }
  figure, .rollout, .verdict, tr { break-inside: avoid; } h2 { break-after: avoid; } .scroll { overflow: visible; } }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """The whole page."""
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
    )
    return head + "<body><main>\n" + "\n".join(parts) + "\n</main></body></html>\n"


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def note(text: str) -> str:
    return paragraph(text, "note")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain texts; the first column names the rows."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(png: Path, title: str, caption: str) -> str:
    """A PNG inside the page, with its title as the text alternative."""
    data = base64.b64encode(png.read_bytes()).decode()
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(title)}">'
    return f"<figure>{image}<figcaption>{escape(caption)} [figures/{escape(png.name)}]</figcaption></figure>"


def folded(title: str, inner: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inner}</details>"


def code(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"
