"""Parts of a page: tables, sliders over images, and the page around its sections."""

import html
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from chromagan_jax.evaluation.report import style
from chromagan_jax.utils import page

Cell = tuple[str, str]  # class, 'n' for numbers, and escaped text


def document(title: str, introduction: str, sections: Mapping[str, str]) -> bytes:
    """A page with a heading, an introduction and the sections that are not empty."""
    shown = {name: content for name, content in sections.items() if content}
    links = ''.join(f'<a href="#s{i}">{name}</a>' for i, name in enumerate(shown))
    written = time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())
    pieces = [
        page.head(f'{title} - chromagan_jax', style.STYLE),
        f'<h1>{html.escape(title)}</h1>\n{introduction}\n<nav>{links}</nav>\n',
        *(
            f'<section id="s{i}"><h2>{name}</h2>\n{content}</section>\n'
            for i, (name, content) in enumerate(shown.items())
        ),
        f'<p>Written {written} by chromagan_jax.</p>\n{style.SCRIPT}{page.TAIL}',
    ]
    # The name of a file may be invalid UTF-8, but the page must not be.
    return ''.join(pieces).encode('utf-8', 'backslashreplace')


def table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], sortable: bool = False) -> str:
    """A table; headings are escaped here. A click on a heading of a sortable table sorts it."""
    numeric = [kind.split()[:1] == ['n'] for kind, _ in rows[0]]
    top = ''.join(
        f'<th{" class=n" if n else ""}>'
        f'{f"<button>{html.escape(head)}</button>" if sortable else html.escape(head)}</th>'
        for head, n in zip(heads, numeric, strict=True)
    )
    body = '\n'.join(f'<tr>{"".join(_cell(kind, text) for kind, text in row)}</tr>' for row in rows)
    start = '<table class="sortable">' if sortable else '<table>'
    return f'{start}\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table>\n'


def _cell(kind: str, text: str) -> str:
    return f'<td class="{kind}">{text}</td>' if kind else f'<td>{text}</td>'


def number(form: str, value: float | None, kind: str = 'n') -> Cell:
    """A cell with a number in a format; empty for None and NaN."""
    return kind, '' if value is None or value != value else form.format(value)


def frames(images: Mapping[str, bytes], note: str) -> str:
    """JPEGs by label under one slider, the last one first; '' without images."""
    if not images:
        return ''
    last, label = len(images) - 1, list(images)[-1]
    shown = ''.join(
        f'<img src="{page.jpeg_uri(jpeg)}" alt="Samples, {html.escape(name)}" '
        f'data-label="{html.escape(name)}"{"" if i == last else " hidden"}>\n'
        for i, (name, jpeg) in enumerate(images.items())
    )
    return (
        f'<div class="frames"><p><input type="range" min="0" max="{last}" value="{last}" '
        f'aria-label="Samples"> <output>{html.escape(label)}</output> {note}</p>\n{shown}</div>\n'
    )


def plots(sections: Iterable[tuple[str, str]]) -> str:
    """Charts below their headings, and a box that hides the raw values; '' without charts."""
    shown = ''.join(
        f'<h3>{name}</h3><div class="charts">{content}</div>\n' for name, content in sections
    )
    box = '<p><label><input type="checkbox" name="raw" checked> raw values behind smoothed ones'
    return shown and f'{box}</label></p>\n{shown}'


def text(value: Any) -> str:
    """A value of a config or a version, escaped; '' for None."""
    if value is None:
        return ''
    if isinstance(value, tuple):
        return html.escape(', '.join(map(str, value)))
    return html.escape(f'{value:g}' if isinstance(value, float) else str(value) or "''")
