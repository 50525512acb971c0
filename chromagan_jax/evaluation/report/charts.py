"""Charts as SVG text: lines over steps, and maps of ab histograms.

Colours, widths and fonts are CSS classes of `style.STYLE`, so that a page can be light or dark.
"""

import html
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from chromagan_jax import color
from chromagan_jax.evaluation.measures import AB_BIN, AB_BINS

_COLORS = 8  # of lines
_POINTS = 300  # most points of a line
_NOISY = 20  # points from which a noisy line is smoothed
_WIDTH, _HEIGHT = 440, 230  # of a chart, px
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 8, 24  # its margins, px
_CELL = 9  # px, of a bin of a histogram
_LIGHTNESS = 65.0  # L* of the colours of bins


class Line(NamedTuple):
    """A line of a chart."""

    label: str
    x: np.ndarray  # (N,), increasing
    y: np.ndarray  # (N,), finite
    noisy: bool = False  # shown with its smoothed values
    dashed: bool = False  # a reference
    color: int = 0  # 0 to 7; more begin again


def number(value: float) -> str:
    """A number with up to four digits; thousands as k and M."""
    for unit, suffix in ((1e6, 'M'), (1e3, 'k')):
        if abs(value) >= 10 * unit or (abs(value) >= unit and value % (unit / 10) == 0):
            return f'{value / unit:.4g}{suffix}'
    return f'{value:.4g}'


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """About `count` round numbers between two numbers, low < high."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def thin_out(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """At most `_POINTS` bins of a line: mean x, and mean, least and greatest y of each."""
    starts = np.unique(np.linspace(0, len(x), min(len(x), _POINTS), endpoint=False).astype(int))
    counts = np.diff(np.append(starts, len(x)))
    means = (np.add.reduceat(values.astype(np.float64), starts) / counts for values in (x, y))
    return (*means, np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts))


def smoothed(y: np.ndarray) -> np.ndarray:
    """Exponential moving average over about a thirtieth of (N,) values, without a bias to 0."""
    decay = 1 - 1 / max(3.0, len(y) / 30)
    average, weight, result = 0.0, 0.0, np.empty(len(y))
    for i, value in enumerate(y):
        average = decay * average + (1 - decay) * value
        weight = decay * weight + (1 - decay)
        result[i] = average / weight
    return result


def line_chart(title: str, lines: Sequence[Line], x_label: str = 'step') -> str:
    """A figure with a caption, axes and lines; the legend shows the newest values.

    Noisy lines of many points are drawn smoothed over their raw values. Rare extreme values are
    cut off, as are those of the first steps.

    Args:
        title: of the caption.
        lines: at least one, each with at least one point.
        x_label: of the horizontal axis.
    """
    thin = [thin_out(line.x, line.y) for line in lines]
    smooth = [
        smoothed(mean) if line.noisy and len(mean) >= _NOISY else None
        for line, (_, mean, _, _) in zip(lines, thin, strict=True)
    ]
    low_x, high_x = (
        float(f(end))
        for f, end in ((min, [x[0] for x, *_ in thin]), (max, [x[-1] for x, *_ in thin]))
    )
    high_x = high_x if high_x > low_x else low_x + 1
    low_y, high_y = _range_of(lines)
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    to_x = lambda x: (x - low_x) / (high_x - low_x) * plot_width
    to_y = lambda y: (high_y - y) / (high_y - low_y) * plot_height

    drawn = []
    for line, (x, mean, least, most), average in zip(lines, thin, smooth, strict=True):
        kind = _kind(line)
        if average is not None:
            zigzag = np.stack([least, most], axis=1).ravel()
            drawn.append(_polyline(np.repeat(x, 2), zigzag, to_x, to_y, f'raw {kind}'))
        shown = mean if average is None else average
        drawn.append(_polyline(x, shown, to_x, to_y, f'line {kind}', line.label))
        if len(x) == 1:
            drawn.append(
                f'<circle class="{kind}" cx="{to_x(x[0]):.1f}" cy="{to_y(mean[0]):.1f}" r="3"/>'
            )
    inner = (
        f'<svg x="{_LEFT}" y="{_TOP}" width="{plot_width}" height="{plot_height}">'
        f'{"".join(drawn)}<line class="cursor" y2="{plot_height}" visibility="hidden"/></svg>'
    )
    scale = f'{low_x:.8g} {high_x:.8g} {low_y:.8g} {high_y:.8g}'
    return (
        f'<figure class="chart"><figcaption><b>{html.escape(title)}</b> '
        f'{_legend(lines, newest=x_label == "step")}'
        '</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}" '
        f'data-scale="{scale}" data-x="{html.escape(x_label)}">'
        f'{_axes((low_x, high_x), (low_y, high_y), to_x, to_y)}{inner}</svg></figure>\n'
    )


def _range_of(lines: Sequence[Line]) -> tuple[float, float]:
    """The values that the vertical axis shows, with a margin."""
    ends = []
    for line in lines:
        settled = line.y[len(line.y) // 20 :] if line.noisy else line.y
        ends += (
            list(np.percentile(settled, (0.5, 99.5)))
            if line.noisy
            else [settled.min(), settled.max()]
        )
    low, high = float(min(ends)), float(max(ends))
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    bottom = 0.0 if 0 <= low < 0.25 * high else low - margin
    return bottom, high + margin


def _polyline(
    x: np.ndarray,
    y: np.ndarray,
    to_x: Callable[[np.ndarray], np.ndarray],
    to_y: Callable[[np.ndarray], np.ndarray],
    kind: str,
    label: str = '',
) -> str:
    points = ' '.join(f'{a:.1f},{b:.1f}' for a, b in zip(to_x(x), to_y(y), strict=True))
    name = f' data-label="{html.escape(label)}"' if label else ''
    return f'<polyline class="{kind}" points="{points}"{name}/>'


def _legend(lines: Sequence[Line], newest: bool) -> str:
    """The label of each line that has one, and its newest value."""
    entries = []
    for line in lines:
        value = f'<span class="value">{number(line.y[-1])}</span>' if newest else ''
        kind = ('key ' if line.label else '') + _kind(line)
        entries.append(f'<span class="{kind}">{html.escape(line.label)} {value}</span>')
    return ' '.join(entries)


def _kind(line: Line) -> str:
    return f'c{line.color % _COLORS}' + (' dashed' if line.dashed else '')


def _axes(
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
) -> str:
    parts = []
    for value in ticks(*y_range):
        y = _TOP + to_y(value)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(value)}</text>'
        )
    bottom = _HEIGHT - _BOTTOM
    for value in ticks(*x_range):
        x = _LEFT + to_x(value)
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        )
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{number(value)}</text>'
        )
    parts.append(
        f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>'
    )
    return ''.join(parts)


def ab_map(title: str, counts: np.ndarray, most: float, half: int) -> str:
    """A figure of an ab histogram: bins in their colour, opaque for many pixels (logarithmic).

    Args:
        title: of the caption.
        counts: (23, 23) shares of the pixels.
        most: the share that is opaque.
        half: bins shown on each side of the middle one.
    """
    middle = AB_BINS // 2
    bins = np.arange(middle - half, middle + half + 1)
    a, b = np.meshgrid((bins - middle) * AB_BIN, (bins - middle) * AB_BIN, indexing='ij')
    rgb = color.lab_to_rgb(np.stack([np.full_like(a, _LIGHTNESS), a, b], -1).astype(np.float32))
    side = len(bins) * _CELL
    cells = []
    for i, row in enumerate(bins):
        for j, column in enumerate(bins):
            share = counts[row, column]
            if share <= 0:
                continue
            # From the most frequent bin down to a hundred-thousandth of it.
            opacity = max(0.06, 1 + math.log10(share / most) / 5)
            shade = ''.join(f'{round(255 * c):02x}' for c in rgb[i, j])
            x, y = _LEFT + i * _CELL, _TOP + (len(bins) - 1 - j) * _CELL
            cells.append(
                f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" fill="#{shade}" '
                f'fill-opacity="{opacity:.2f}"><title>a* {a[i, j]}, b* {b[i, j]}: {share:.3%}'
                '</title></rect>'
            )
    width, height = _LEFT + side + _RIGHT, _TOP + side + _BOTTOM
    labels = []
    for value in ticks(-half * AB_BIN, half * AB_BIN, 4):
        at = (half + value / AB_BIN + 0.5) * _CELL
        labels += [
            f'<text x="{_LEFT + at:.1f}" y="{_TOP + side + 16}" text-anchor="middle">{value:g}'
            f'</text><text x="{_LEFT - 6}" y="{_TOP + side - at + 3.5:.1f}" text-anchor="end">'
            f'{value:g}</text>'
        ]
    frame = f'<rect class="frame" x="{_LEFT}" y="{_TOP}" width="{side}" height="{side}"/>'
    return (
        f'<figure class="map"><figcaption><b>{html.escape(title)}</b> b* over a*</figcaption>'
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="{html.escape(title)}">{"".join(cells)}{frame}{"".join(labels)}</svg></figure>\n'
    )
