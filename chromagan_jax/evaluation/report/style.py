"""Style sheet and scripts of the report."""

from chromagan_jax.utils import page

STYLE = (
    """:root { color-scheme: light dark; --ink: #1f2328; --faint: #656d76; --line: #d8dee4;
  --back: #fff; --card: #f6f8fa; --c0: #0969da; --c1: #cf5f00; --c2: #1a7f37; --c3: #a40e72;
  --c4: #6639ba; --c5: #9a6700; --c6: #0f7b83; --c7: #57606a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --faint: #9198a1; --line: #30363d;
  --back: #0d1117; --card: #161b22; --c0: #58a6ff; --c1: #ff9a4d; --c2: #56d364; --c3: #ff7ac6;
  --c4: #b392f0; --c5: #e3b341; --c6: #4fd1d9; --c7: #9198a1; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  margin: 0 auto; max-width: 100rem; padding: 1rem 1.5rem 4rem; }
h1 { font-size: 1.6rem; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
nav a { margin-right: 1rem; } a { color: var(--c0); text-decoration: none; }
p, small { color: var(--faint); margin: .4rem 0; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem; margin: .8rem 0; }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .4rem .8rem; } .facts b { display: block; font-size: 1.15rem; }
.facts div { color: var(--faint); font-size: .85rem; } .facts b { color: var(--ink); }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(21rem, 1fr)); }
figure { margin: 0; } .chart, .map { background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem; padding: .5rem .6rem .2rem; }
figcaption { font-size: .85rem; color: var(--faint); overflow-wrap: anywhere; }
figcaption b { color: var(--ink); margin-right: .4rem; }
.value { font-variant-numeric: tabular-nums; color: var(--ink); }
svg { display: block; max-width: 100%; height: auto; }
.chart svg { width: 100%; } svg svg { overflow: hidden; }
text { font: 11px system-ui, sans-serif; fill: var(--faint); }
.grid { stroke: var(--line); } .axis { stroke: var(--faint); } .cursor { stroke: var(--faint); }
.frame { fill: none; stroke: var(--line); }
polyline { fill: none; stroke-linejoin: round; } .line { stroke-width: 1.8; }
.raw { stroke-width: 1; opacity: .3; } .dashed { stroke-dasharray: 5 4; }
body.quiet .raw { display: none; }
.key { white-space: nowrap; margin-right: .5rem; }
.key::before { content: ""; display: inline-block; width: .9em; vertical-align: .25em;
  margin-right: .3em; border-top: 3px solid currentColor; }
.key.dashed::before { border-top-style: dashed; }
"""
    + ''.join(
        f'polyline.c{i} {{ stroke: var(--c{i}); }} circle.c{i} {{ fill: var(--c{i}); }} '
        f'.key.c{i}::before {{ color: var(--c{i}); }} .part.c{i} {{ background: var(--c{i}); }}\n'
        for i in range(8)
    )
    + """table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); } th { font-weight: 600; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td { overflow-wrap: anywhere; } .best { font-weight: 700; }
.wide { overflow: auto; max-height: 34rem; } .wide thead th { position: sticky; top: 0;
  background: var(--back); }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--c0); }
th[aria-sort]::after { content: " \\25B2"; } th[aria-sort=descending]::after { content: " \\25BC"; }
.bar { display: flex; height: 1.1rem; border-radius: .3rem; overflow: hidden; margin: .5rem 0; }
.frames img { display: block; max-width: 100%; background: #fff; }
.frames img[hidden] { display: none; }
.frames input { width: min(40rem, 60%); vertical-align: middle; }
.pairs { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
.pairs .pair, .pairs .pair > img:first-child { width: 100%; }
.against-original .before.gray, .against-gray .before.original { display: none; }
details { margin: .6rem 0; } summary { cursor: pointer; font-weight: 600; }
.tip { position: fixed; pointer-events: none; background: var(--card); color: var(--ink);
  border: 1px solid var(--line); border-radius: .4rem; padding: .2rem .5rem; font-size: .8rem;
  white-space: pre; z-index: 2; }
@media print { .wide { max-height: none; } }
"""
    + page.PAIR_STYLE
)

SCRIPT = (
    page.PAIR_SCRIPT
    + r"""<script>
// Sliders over images, the kind of the left side of pairs, and raw values.
document.addEventListener('input', (event) => {
  const input = event.target, frames = input.closest('.frames');
  if (frames && input.type === 'range') {
    const images = frames.querySelectorAll('img');
    images.forEach((image, i) => { image.hidden = i !== input.valueAsNumber; });
    frames.querySelector('output').value = images[input.valueAsNumber].dataset.label;
  } else if (input.name === 'against') {
    input.closest('section').className = 'against-' + input.value;
  } else if (input.name === 'raw') {
    document.body.classList.toggle('quiet', !input.checked);
  }
});
// A column heading sorts its table.
document.addEventListener('click', (event) => {
  const head = event.target.closest('th');
  if (!event.target.closest('table.sortable thead button')) return;
  const table = head.closest('table'), body = table.tBodies[0], column = head.cellIndex;
  const down = head.getAttribute('aria-sort') === 'ascending';
  const text = (row) => row.cells[column].textContent;
  const order = (a, b) => {
    const x = parseFloat(text(a)), y = parseFloat(text(b));
    if (head.className !== 'n') return text(a).localeCompare(text(b));
    return (isNaN(x) - isNaN(y)) || x - y || 0;
  };
  const rows = [...body.rows].sort((a, b) => down ? order(b, a) : order(a, b));
  table.querySelectorAll('th').forEach((other) => other.removeAttribute('aria-sort'));
  head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  body.append(...rows);
});
// A tip with the values of the lines under the pointer.
const tip = document.createElement('div');
tip.className = 'tip';
tip.hidden = true;
document.body.append(tip);
const show = (x) =>
  Math.abs(x) >= 1e4 ? Math.round(x).toLocaleString('en') : +x.toPrecision(4) + '';
document.addEventListener('pointermove', (event) => {
  const chart = event.target.closest && event.target.closest('.chart svg[data-scale]');
  document.querySelectorAll('.cursor[visibility=visible]').forEach(
    (line) => line.setAttribute('visibility', 'hidden'));
  tip.hidden = !chart;
  if (!chart) return;
  const [x0, x1, y0, y1] = chart.dataset.scale.split(' ').map(Number);
  const inner = chart.querySelector('svg'), cursor = inner.querySelector('.cursor');
  const width = inner.width.baseVal.value, height = inner.height.baseVal.value;
  const at = new DOMPoint(event.clientX, event.clientY)
    .matrixTransform(chart.getScreenCTM().inverse()).x - inner.x.baseVal.value;
  let nearest = null;
  const lines = [...inner.querySelectorAll('polyline.line')].map((line) => {
    let point = line.points[0];
    for (const other of line.points)
      if (Math.abs(other.x - at) < Math.abs(point.x - at)) point = other;
    if (!nearest || Math.abs(point.x - at) < Math.abs(nearest.x - at)) nearest = point;
    return (line.dataset.label || '') + '  ' + show(y1 - point.y / height * (y1 - y0));
  });
  cursor.setAttribute('x1', nearest.x);
  cursor.setAttribute('x2', nearest.x);
  cursor.setAttribute('visibility', 'visible');
  const x = chart.dataset.x + ' ' + show(x0 + nearest.x / width * (x1 - x0));
  tip.textContent = [x, ...lines].join('\n');
  const left = event.clientX + 16 + tip.offsetWidth > innerWidth;
  tip.style.left = (left ? event.clientX - 12 - tip.offsetWidth : event.clientX + 16) + 'px';
  tip.style.top = event.clientY + 12 + 'px';
});
</script>
"""
)
