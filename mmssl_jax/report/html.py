"""Pieces of HTML. Every function escapes the plain text it is given and returns finished HTML."""

import base64
from collections.abc import Sequence
from html import escape

from mmssl_jax.report.plots import Panel

STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --soft: #57606a; --page: #ffffff;
  --line: #d0d7de; --head: #f3f5f7; --hit: #d7f0dc; --changed: #fff1c2; --link: #0a58a8; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ed; --soft: #a5afba; --page: #14181d;
  --line: #3a434d; --head: #1f262d; --hit: #1c4a2a; --changed: #4d3f0c; --link: #7db8f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--page);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin: .3rem 0; }
h2 { font-size: 1.3rem; margin: 2.2rem 0 .4rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.2rem 0 .3rem; }
p { margin: .3rem 0 .7rem; max-width: 48rem; }
.soft, caption { color: var(--soft); font-size: .9rem; }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0; list-style: none; }
.panels { display: grid; gap: .8rem; margin: .6rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
.panels img { display: block; width: 100%; height: auto; background: #ffffff;
  border: 1px solid var(--line); border-radius: 6px; padding: 4px; }
.beside { display: grid; gap: .2rem 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
.beside > div { min-width: 0; }
.scroll { overflow-x: auto; margin: .4rem 0 .8rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .2rem 0; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: normal; }
thead th { background: var(--head); }
th.number, td.number { text-align: right; }
.changed { background: var(--changed); }
.hit { background: var(--hit); font-weight: 600; }
ol.list { display: flex; flex-wrap: wrap; gap: .25rem; list-style: none; padding: 0; margin: 0; }
ol.list li { border: 1px solid var(--line); border-radius: 4px; padding: 0 .4rem; }
dl { margin: .3rem 0 1rem; }
dt { color: var(--soft); font-size: .9rem; }
dd { margin: 0 0 .3rem; }
h4 { font-size: 1rem; margin: .8rem 0 .2rem; }
figure { margin: 0; max-width: 28rem; }
summary { cursor: pointer; color: var(--link); }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Marked(str):
    """A table's cell that stands out."""


def document(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """A whole page: sections are (heading, HTML); it refers to nothing outside itself."""
    links = "".join(f'<li><a href="#{_slug(h)}">{escape(h)}</a></li>' for h, _ in sections)
    bodies = "".join(
        f'<section id="{_slug(heading)}">\n<h2>{escape(heading)}</h2>\n{body}\n</section>\n'
        for heading, body in sections
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{bodies}</main>
</body>
</html>
"""


def paragraph(text: str) -> str:
    """A paragraph of explanation."""
    return f'<p class="soft">{escape(text)}</p>\n'


def heading(text: str, level: int = 3) -> str:
    """A heading inside a section."""
    return f"<h{level}>{escape(text)}</h{level}>\n"


def panels(pictures: Sequence[Panel]) -> str:
    """A grid of pictures, as many beside each other as there is room for."""
    figures = "".join(
        f'<figure><img alt="{escape(p.alt)}" '
        f'src="data:image/png;base64,{base64.b64encode(p.png).decode()}"></figure>\n'
        for p in pictures
    )
    return f'<div class="panels">\n{figures}</div>\n'


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with column and row headers; Marked cells stand out.

    A column of nothing but numbers is set to the right.
    """
    kinds = [
        " number" if rows and all(_is_number(row[place]) for row in rows) else ""
        for place in range(len(head))
    ]
    columns = "".join(
        f'<th scope="col"{_class(kind)}>{escape(name)}</th>'
        for name, kind in zip(head, kinds, strict=True)
    )
    body = ""
    for row in rows:
        cells = "".join(
            f"<td{_class(kind + ' changed' * isinstance(text, Marked))}>{escape(text)}</td>"
            for text, kind in zip(row[1:], kinds[1:], strict=True)
        )
        body += f'<tr><th scope="row">{escape(row[0])}</th>{cells}</tr>\n'
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">\n'
        f"<table><caption>{escape(caption)}</caption>\n"
        f"<thead><tr>{columns}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def definitions(pairs: Sequence[tuple[str, str]]) -> str:
    """Terms, plain, each with its finished HTML."""
    return "<dl>" + "".join(f"<dt>{escape(t)}</dt><dd>{body}</dd>\n" for t, body in pairs) + "</dl>"


def text(plain: str) -> str:
    """Plain text as HTML."""
    return escape(plain)


def details(summary: str, body: str) -> str:
    """HTML that a reader unfolds."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}</details>\n"


def beside(parts: Sequence[str]) -> str:
    """Pieces of HTML beside each other where there is room."""
    return '<div class="beside">\n' + "".join(f"<div>{part}</div>\n" for part in parts) + "</div>\n"


def item_list(items: Sequence[tuple[str, bool]], label: str) -> str:
    """Items in order; those with a true second part are hits, marked by more than colour."""
    entries = "".join(
        f'<li class="hit">{escape(item)} <span role="img" aria-label="hit">&#10003;</span></li>'
        if is_hit
        else f"<li>{escape(item)}</li>"
        for item, is_hit in items
    )
    return f'<ol class="list" aria-label="{escape(label)}">{entries}</ol>\n'


def _class(names: str) -> str:
    return f' class="{names.strip()}"' if names else ""


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").rstrip("%"))
    except ValueError:
        return False
    return True


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text.lower())
