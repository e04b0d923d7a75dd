"""The parts of a page that needs nothing beside itself: headings, paragraphs, tables, plots; light, dark, on paper."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

CSS = """
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #62626a; --paper: #ffffff; --line: #d5d5da; --shade: #f4f4f6;
  --good: #1b7f4b; --bad: #b3261e; --unsure: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf1; --soft: #a5a5ae; --paper: #17171a; --line: #3a3a41;
  --shade: #222227; --good: #5fd39a; --bad: #ff8a80; --unsure: #f0c060; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; max-width: 52rem; } .soft { color: var(--soft); }
.verdict { border-left: .4rem solid var(--unsure); background: var(--shade); padding: .8rem 1rem; margin: 1rem 0; }
.verdict strong { font-size: 1.3rem; color: var(--unsure); }
.verdict.good { border-color: var(--good); } .good strong, td.good { color: var(--good); }
.verdict.bad { border-color: var(--bad); } .bad strong, td.bad { color: var(--bad); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .82rem; margin: .5rem 0; }
th, td { text-align: left; padding: .25rem .55rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } td.number, th.number { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
tr.marked td { font-weight: 700; }
figure { margin: 1rem 0; break-inside: avoid; } figcaption { color: var(--soft); max-width: 52rem; font-size: .86rem; }
img { max-width: 100%; height: auto; background: #ffffff; border: 1px solid var(--line); border-radius: .4rem; }
@media print { :root { color-scheme: light; --ink: #000; --paper: #fff; --shade: #fff; --soft: #444; }
  body { padding: 0; max-width: none; font-size: 10pt; } .wide { overflow: visible; } h2 { break-after: avoid; }
  tr { break-inside: avoid; } }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""What the page may load: nothing."""


def page(title: str, parts: Sequence[str]) -> str:
    """Return a whole document."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{CSS}</style>",
            "</head>",
            "<body>",
            "<main>",
            *parts,
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def heading(text: str, level: int = 2) -> str:
    """Return a heading."""
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, style: str = "") -> str:
    """Return a paragraph."""
    return f"<p{_styled(style)}>{escape(text)}</p>"


def verdict_box(title: str, sentences: Sequence[str], style: str) -> str:
    """Return what is to be seen first.

    Args:
        title: In large letters.
        sentences: A paragraph each.
        style: `good`, `bad` or nothing.
    """
    inside = "".join(paragraph(sentence) for sentence in sentences)
    return f'<section class="{f"verdict {style}".strip()}"><strong>{escape(title)}</strong>{inside}</section>'


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Sequence[str] = (),
    marked: Sequence[int] = (),
    styles: dict[tuple[int, int], str] | None = None,
) -> str:
    """Return a table of texts.

    Args:
        header: Names of columns.
        rows: Cells.
        numbers: Columns whose cells stand to the right.
        marked: Rows in bold letters.
        styles: (row, column) -> `good` or `bad`.
    """
    right = [name in numbers for name in header]

    def cells(tag: str, texts: Sequence[str], row: int | None = None) -> str:
        found = []
        for column, text in enumerate(texts):
            style = (styles or {}).get((row, column), "") if row is not None else ""
            names = " ".join(filter(None, ["number" if right[column] else "", style]))
            found.append(f"<{tag}{_styled(names)}>{escape(text)}</{tag}>")
        return "".join(found)

    lines = [
        f"<tr{_styled('marked' if row in marked else '')}>{cells('td', texts, row)}</tr>"
        for row, texts in enumerate(rows)
    ]
    head = f"<thead><tr>{cells('th', header)}</tr></thead>"
    return f'<div class="wide"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>'


def figure(svg: bytes, description: str) -> str:
    """Return a plot inside the page; its description stands below it, and in its place where it cannot be seen."""
    data = base64.b64encode(svg).decode()
    text = escape(description)
    return f'<figure><img alt="{text}" src="data:image/svg+xml;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _styled(names: str) -> str:
    return f' class="{escape(names)}"' if names else ""
