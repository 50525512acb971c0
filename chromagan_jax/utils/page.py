"""Pieces of HTML pages that hold all they show and need no network."""

import base64
import html
from collections.abc import Mapping

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
"""
TAIL = '</body>\n</html>\n'

PAIR_STYLE = """.pair { position: relative; --at: 50%; width: fit-content; max-width: 100%;
  line-height: 0; }
.pair img { display: block; max-width: 100%; max-height: 30rem; }
.pair .before { position: absolute; inset: 0; width: 100%; height: 100%;
  clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.pair::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px;
  background: #fff; box-shadow: 0 0 3px #000; pointer-events: none; }
.pair input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
  cursor: ew-resize; }
.pair input:focus-visible + span { outline: 3px solid #06c; }
.pair span { position: absolute; inset: 0; pointer-events: none; }
"""
PAIR_SCRIPT = """<script>
document.addEventListener('input', (event) => {
  if (event.target.matches('.pair input'))
    event.target.parentElement.style.setProperty('--at', event.target.value + '%');
});
</script>
"""


def head(title: str, style: str) -> str:
    """The start of a page, up to its body; `TAIL` ends it. The title is escaped."""
    return _HEAD.format(title=html.escape(title), style=style)


def jpeg_uri(jpeg: bytes) -> str:
    """The address of an image that holds the image itself."""
    return f'data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}'


def pair(name: str, after: bytes, before: Mapping[str, bytes]) -> str:
    """A photograph under a slider, with `PAIR_STYLE` and `PAIR_SCRIPT`.

    Args:
        name: of the photograph, escaped here.
        after: JPEG of the colorized photograph, on the right of the slider.
        before: JPEGs for the left side by kind, such as 'original'. The kind is a class of the
            image; of several the page shows one.
    """
    name = html.escape(name)
    left = ''.join(
        f'<img class="before {kind}" src="{jpeg_uri(jpeg)}" alt="{name}, {kind}" loading="lazy">'
        for kind, jpeg in before.items()
    )
    return (
        f'<div class="pair"><img src="{jpeg_uri(after)}" alt="{name}, colorized" loading="lazy">'
        f'{left}<input type="range" aria-label="Compare {name}"><span></span></div>'
    )
