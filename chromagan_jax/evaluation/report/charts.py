"""Charts as SVG text: lines over steps, and maps of ab histograms.

Colours, widths and fonts are CSS classes of `style.STYLE`, so that a page can be light or dark.
"""

import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

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


class _Scale(NamedTuple):
    """The values of an axis and their places in the plot."""

    low: float
    high: float
    size: int  # px

    def across(self, value: Any) -> Any:
        """Distance of values from the left, px."""
        return (value - self.low) / (self.high - self.low) * self.size

    def down(self, value: Any) -> Any:
        """Distance of values from the top, px."""
        return self.size - self.across(value)


def line_chart(title: str, lines: Sequence[Line], x_label: str = 'step') -> str:
    """A figure with a caption, axes and lines; the legend shows the newest values of steps.

    Noisy lines of many points are drawn smoothed over their raw values. Rare extreme values are
    cut off, as are those of the first steps.

    Args:
        title: of the caption.
        lines: at least one, each with at least one point.
        x_label: of the horizontal axis.
    """
    thin = [thin_out(line.x, line.y) for line in lines]
    first, last = float(min(x[0] for x, *_ in thin)), float(max(x[-1] for x, *_ in thin))
    x = _Scale(first, last if last > first else first + 1, _WIDTH - _LEFT - _RIGHT)
    y = _Scale(*_range_of(lines), _HEIGHT - _TOP - _BOTTOM)
    drawn = ''.join(_drawn(*each, x, y) for each in zip(lines, thin, strict=True))
    return (
        f'<figure class="chart"><figcaption><b>{html.escape(title)}</b> '
        f'{_legend(lines, newest=x_label == "step")}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}" '
        f'data-scale="{x.low:.8g} {x.high:.8g} {y.low:.8g} {y.high:.8g}" '
        f'data-x="{html.escape(x_label)}">{_axes(x, y)}'
        f'<svg x="{_LEFT}" y="{_TOP}" width="{x.size}" height="{y.size}">{drawn}'
        f'<line class="cursor" y2="{y.size}" visibility="hidden"/></svg></svg></figure>\n'
    )


def _drawn(line: Line, bins: tuple[np.ndarray, ...], x: _Scale, y: _Scale) -> str:
    """A line from its `thin_out` bins; a noisy one smoothed, over its least and greatest values."""
    places, mean, least, most = bins
    kind = _kind(line)
    if len(places) == 1:
        dot = f'cx="{x.across(places[0]):.1f}" cy="{y.down(mean[0]):.1f}"'
        return _polyline(places, mean, x, y, f'line {kind}', line.label) + (
            f'<circle class="{kind}" {dot} r="3"/>'
        )
    if not line.noisy or len(mean) < _NOISY:
        return _polyline(places, mean, x, y, f'line {kind}', line.label)
    zigzag = np.stack([least, most], axis=1).ravel()
    raw = _polyline(np.repeat(places, 2), zigzag, x, y, f'raw {kind}')
    return raw + _polyline(places, smoothed(mean), x, y, f'line {kind}', line.label)


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
    places: np.ndarray, values: np.ndarray, x: _Scale, y: _Scale, kind: str, label: str = ''
) -> str:
    points = zip(x.across(places), y.down(values), strict=True)
    shown = ' '.join(f'{a:.1f},{b:.1f}' for a, b in points)
    name = f' data-label="{html.escape(label)}"' if label else ''
    return f'<polyline class="{kind}" points="{shown}"{name}/>'


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


def _axes(x: _Scale, y: _Scale) -> str:
    left, right, bottom = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>']
    for value in ticks(y.low, y.high):
        at = _TOP + y.down(value)
        parts.append(
            f'<line class="grid" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{left - 6}" y="{at + 3.5:.1f}" text-anchor="end">{number(value)}</text>'
        )
    for value in ticks(x.low, x.high):
        at = _LEFT + x.across(value)
        parts.append(
            f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
            f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{number(value)}</text>'
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
