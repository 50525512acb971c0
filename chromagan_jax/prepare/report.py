"""Counts and examples of kept and dropped images, and the report of them."""

import base64
import html
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from chromagan_jax.data.decode import decode
from chromagan_jax.prepare.pictures import REASONS, Dropped, Kept, thumbnail
from chromagan_jax.utils.files import write_atomically, write_json

SPLITS = ('train', 'test')
MAX_EXAMPLES = 24  # of each outcome
SIDES = (
    0,
    64,
    96,
    128,
    192,
    256,
    384,
    512,
    768,
    1024,
    1536,
    2048,
    3072,
    4096,
)  # starts of bins, px
CHROMAS = tuple(range(0, 101, 5))  # starts of bins

_MEANINGS = {
    'undecodable': 'damaged, truncated, or not an image',
    'too_small': 'the short side is too small',
    'too_elongated': 'the ratio of long to short side is too large',
    'gray': 'gray, sepia or another tint',
    'duplicate': 'the same as another picture, or nearly the same',
}


class Example(NamedTuple):
    """One image of the report; examples sort by digest."""

    digest: str
    name: str
    detail: str
    image: bytes | None  # JPEG of any size


class Summary(NamedTuple):
    """Counts and examples of a set of images, independent of their order.

    The keys of `counts` are ('kept',), ('bytes',), ('dropped', reason), ('split', split),
    ('label', label, split), ('side', start of the bin) and ('chroma', start of the bin). For each
    outcome, 'kept' or a reason, `examples` holds the `MAX_EXAMPLES` smallest digests, sorted.
    """

    counts: Counter[tuple[Any, ...]]
    examples: dict[str, list[Example]]


def empty() -> Summary:
    """An empty summary."""
    return Summary(Counter(), {})


def add(
    summary: Summary, outcome: Kept | Dropped, name: str, label: str = '', split: str = ''
) -> Summary:
    """Adds one image to `summary` in place and returns it.

    Args:
        summary: of the previous images.
        outcome: of `pictures.process`, or `Dropped` as a duplicate later.
        name: of the file.
        label: the category of a kept image; '' without categories.
        split: of a kept image.
    """
    counts = summary.counts
    if isinstance(outcome, Kept):
        short = min(outcome.width, outcome.height)
        detail = f'{outcome.width} x {outcome.height} px, chroma {outcome.chroma:.1f}'
        _add_example(summary, 'kept', Example(outcome.digest, name, detail, outcome.image))
        counts['kept',] += 1
        counts['bytes',] += len(outcome.image)
        counts['split', split] += 1
        counts['side', _bin(SIDES, short)] += 1
        counts['chroma', _bin(CHROMAS, outcome.chroma)] += 1
        if label:
            counts['label', label, split] += 1
    else:
        example = Example(outcome.digest, name, outcome.detail, outcome.thumbnail)
        _add_example(summary, outcome.reason, example)
        counts['dropped', outcome.reason] += 1
    return summary


def _add_example(summary: Summary, outcome: str, example: Example) -> None:
    examples = summary.examples.setdefault(outcome, [])
    insort(examples, example, key=_order)
    del examples[MAX_EXAMPLES:]


def _order(example: Example) -> tuple[str, str, str, bytes]:
    return example.digest, example.name, example.detail, example.image or b''


def _bin(starts: Sequence[float], value: float) -> float:
    return starts[bisect_right(starts, value) - 1]


def write_report(folder: Path, summary: Summary, options: Mapping[str, Any]) -> None:
    """Writes `report.json` and `report.html` to `folder`; equal images give equal bytes.

    Args:
        folder: created if missing.
        summary: of all images.
        options: settings of the preparation, JSON values.

    Raises:
        UserError: if the files cannot be written.
    """
    facts = _facts(summary, options)
    write_json(Path(folder) / 'report.json', facts)
    # A file name may be invalid UTF-8, but the report must not be.
    page = _page(facts, summary.examples).encode('utf-8', 'backslashreplace')
    write_atomically(Path(folder) / 'report.html', page)


def _facts(summary: Summary, options: Mapping[str, Any]) -> dict[str, Any]:
    """The content of report.json, with all known reasons, splits and bins, even at 0."""
    counts = summary.counts
    others = sorted({key[1] for key in counts if key[0] == 'dropped'} - set(REASONS))
    splits = [*SPLITS, *sorted({key[1] for key in counts if key[0] == 'split'} - set(SPLITS))]
    labels = sorted({key[1] for key in counts if key[0] == 'label'})
    return {
        'kept': counts['kept',],
        'dropped': {reason: counts['dropped', reason] for reason in (*REASONS, *others)},
        'splits': {split: counts['split', split] for split in splits},
        'labels': {
            label: {split: counts['label', label, split] for split in splits} for label in labels
        },
        'bytes': counts['bytes',],
        'sizes': {'from': list(SIDES), 'counts': [counts['side', start] for start in SIDES]},
        'chroma': {'from': list(CHROMAS), 'counts': [counts['chroma', start] for start in CHROMAS]},
        'options': dict(options),
    }


_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
.note { opacity: .7; } svg { display: block; max-width: 100%; height: auto; }
rect { fill: #3b7dd8; } text { fill: currentColor; font: 11px system-ui, sans-serif; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 1rem; }
figure { margin: 0; } figcaption { font-size: 12px; line-height: 1.3; overflow-wrap: anywhere; }
figure div { height: 96px; display: flex; align-items: end; margin-bottom: .3rem; }
"""


def _page(facts: Mapping[str, Any], examples: Mapping[str, Sequence[Example]]) -> str:
    dropped, kept = facts['dropped'], facts['kept']
    total = kept + sum(dropped.values())
    splits = ', '.join(f'{count:,} {name}' for name, count in facts['splits'].items())
    reasons = [(name, count, _MEANINGS.get(name, '')) for name, count in dropped.items()]
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f'<title>Prepared pictures</title>\n<style>{_STYLE}</style>',
        f'<h1>{kept:,} of {total:,} pictures kept</h1>',
        f'<p>{html.escape(splits)}; {facts["bytes"] / 1e6:,.1f} MB of JPEG files</p>',
        _table([('kept', kept, ''), *reasons]),
        '<h2>Short side of the originals kept</h2>',
        _histogram(facts['sizes'], 'px'),
        '<h2>Mean chroma of the pictures kept</h2>',
        _histogram(facts['chroma'], 'units of L*a*b*'),
    ]
    for outcome in ('kept', *dropped):
        if examples.get(outcome):
            figures = '\n'.join(_figure(example) for example in examples[outcome])
            parts.append(f'<h2>Examples: {html.escape(outcome)}</h2>')
            parts.append(f'<div class="sheet">\n{figures}\n</div>')
    if facts['labels']:
        parts += [
            '<h2>Categories</h2>',
            _table(_label_row(*item) for item in facts['labels'].items()),
        ]
    parts += ['<h2>Options</h2>', _table(_flat(facts['options']))]
    return '\n'.join(parts) + '\n'


def _label_row(label: str, counts: Mapping[str, int]) -> tuple[str, int, str]:
    return label, sum(counts.values()), ', '.join(f'{n:,} {split}' for split, n in counts.items())


def _flat(options: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yields rows of a table; inner mappings are flattened."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield name, value, ''


def _table(rows: Iterable[tuple[str, Any, str]]) -> str:
    lines = []
    for name, value, note in rows:
        shown = f'{value:,}' if isinstance(value, int) else str(value)
        lines.append(
            f'<tr><td>{html.escape(name)}</td><td class="n">{html.escape(shown)}</td>'
            f'<td class="note">{html.escape(note)}</td></tr>'
        )
    return '<table>\n' + '\n'.join(lines) + '\n</table>'


def _histogram(bins: Mapping[str, Sequence[int]], unit: str) -> str:
    """An SVG with one bar per bin, the count above it and the start of the bin below."""
    width, height = 44, 120  # width of a bar, height of the tallest one, px
    tallest = max(1, *bins['counts'])
    lines = []
    for i, (start, count) in enumerate(zip(bins['from'], bins['counts'], strict=True)):
        x, bar = i * width, count / tallest * height
        top = height + 16 - bar
        lines.append(
            f'<rect x="{x + 1}" y="{top:.1f}" width="{width - 2}" height="{bar:.1f}"/>'
            f'<text x="{x + width / 2:g}" y="{top - 4:.1f}" text-anchor="middle">'
            f'{count or ""}</text><text x="{x}" y="{height + 30}">{start}</text>'
        )
    across, down = len(lines) * width, height + 50
    caption = f'<text x="0" y="{down - 4}">from, in {unit}; the last bin is open</text>'
    frame = f'<svg viewBox="0 0 {across} {down}" width="{across}" height="{down}" role="img">'
    return f'{frame}\n' + '\n'.join(lines) + f'\n{caption}</svg>'


def _figure(example: Example) -> str:
    image = ''
    if example.image:
        data = base64.b64encode(thumbnail(decode(example.image))).decode()
        image = f'<img alt="" src="data:image/jpeg;base64,{data}">'
    name, detail = html.escape(example.name), html.escape(example.detail)
    return (
        f'<figure><div>{image}</div><figcaption>{name}<br>'
        f'<span class="note">{detail}</span></figcaption></figure>'
    )
