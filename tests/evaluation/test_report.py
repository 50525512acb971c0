"""The report of a run, from workdirs made by hand: no network is trained here."""

import base64
import io
import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from chromagan_jax.config import Config, to_dict
from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import report
from chromagan_jax.evaluation.report import charts, details, runs
from chromagan_jax.utils import files

VOID = {'meta', 'img', 'input', 'br', 'link', 'hr'}


class Page(HTMLParser):
    """Checks that every element is closed in order; keeps the attributes and the text."""

    def __init__(self, content):
        super().__init__()
        self.open, self.attributes, self.words, self.closed = [], [], [], 0
        self.feed(content.decode())
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *each) for each in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *each) for each in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.closed += 1

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r'\s+', ' ', ' '.join(self.words))


class Source:
    location = 'photos/<held out>'

    def name(self, index):
        return f'{index}<script>\udce9.png'


def write_run(workdir, config=None, steps=60, samples=3):
    """A workdir with metrics, evaluations and sample grids."""
    config = config or Config()
    (workdir / 'samples').mkdir(parents=True)
    described = {
        'schema_version': 1,
        'config': to_dict(config),
        'data': {'records': 77, 'fingerprint': 'abc'},
        'versions': {'jax': '1.2.3', 'device': 'cpu', 'device_count': '1'},
    }
    (workdir / 'config.json').write_text(json.dumps(described))
    rng = np.random.default_rng(0)
    lines = []
    for step in range(1, steps + 1):
        line = {'step': step, 'generator/loss': 5 / step + rng.random(), 'mine/own': step / 7}
        line |= {'discriminator/accuracy_real': 0.5, 'discriminator/accuracy_fake': None}
        line |= {'goodput/step': 0.75, 'goodput/data': 0.25, 'images_per_second': 12.345}
        lines.append(line | {'data/unreadable': 0.0})
        if step % 20 == 0:
            scores = {'psnr': 20 + step / 100, 'psnr_gray': 21.5, 'ab_mae': abs(step - 40) + 9}
            scores |= {'ab_mae_gray': 11.25, 'images': 6, 'colorfulness': 30}
            scores['colorfulness_original'] = 41.5
            lines.append({'step': step} | {f'eval/{k}': v for k, v in scores.items()})
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (workdir / 'metrics.jsonl').write_text(text)
    for number in range(samples):
        grid = rng.integers(0, 256, (40, 90, 3), np.uint8)
        Image.fromarray(grid).save(workdir / f'samples/step_{20 * number + 20:08d}.png')
    return workdir


@pytest.fixture
def workdir(tmp_path):
    return write_run(tmp_path / 'a run')


def evaluated(workdir, count=6):
    """Adds the output of an evaluation job on `count` images."""
    rng = np.random.default_rng(1)
    images = {'index': np.arange(count), 'psnr': np.linspace(30, 10, count)}
    images |= {'psnr_gray': np.full(count, 21.5), 'ab_mae': rng.random(count)}
    images |= {'blotchiness': np.where(np.arange(count) == 1, np.nan, 1.25)}
    histogram = np.zeros((count, 23, 23), np.int64)
    histogram[:, 11, 11], histogram[:, 13, 12] = 3, 1
    images |= {'ab_histogram': histogram, 'ab_histogram_original': histogram[:, ::-1]}
    scores = {'eval/psnr': 20.125, 'eval/psnr_gray': 21.5, 'eval/images': count}
    shown = {
        index: {k: np.full((8, 8, 3), index / count) for k in ('gray', 'colorized', 'original')}
        for index in details.extremes(images)
    }
    described = details.describe(40, Source(), Config(), scores, images, shown)
    files.write_json(workdir / report.DETAILS, described)
    (workdir / 'metrics_eval.jsonl').write_text(json.dumps({'step': 40, **scores}) + '\n')
    return described


def test_a_page_is_well_formed_holds_the_figures_and_needs_no_other_file(workdir):
    evaluated(workdir)
    report.write(workdir)
    content = (workdir / 'report.html').read_bytes()
    page = Page(content)
    assert page.closed > 300
    places = [value for _, name, value in page.attributes if name in ('src', 'href', 'xlink:href')]
    assert all(place.startswith(('data:image/jpeg;base64,', '#')) for place in places)
    assert not re.search(rb'https?:|@import|url\(', content)
    assert [v for tag, n, v in page.attributes if (tag, n) == ('script', 'src')] == []
    for figure in ('60 of 400', '20.20', '21.50', '11.25', '41.5', '12.35', '75.0%', '77', '1.2.3'):
        assert figure in page.text, figure
    assert 'best, step 40' in page.text  # by ab_mae
    assert '20.12 21.50' in page.text  # of the job
    assert 'mine/own 8.571' in page.text  # a metric without a rule has a chart
    assert '<script>' not in re.sub(rb'<script>.*?</script>', b'', content, flags=re.S).decode()
    assert '0<script>' not in content.decode()
    assert [t for t, n, v in page.attributes if n == 'data-label' and v == 'step 60'] == ['img']


def test_pictures_of_the_page_can_be_read(workdir):
    evaluated(workdir)
    report.write(workdir)
    found = re.findall(rb'base64,([\w+/=]+)"', (workdir / 'report.html').read_bytes())
    assert len(found) == 3 + 3 * 6
    for each in found:
        Image.open(io.BytesIO(base64.b64decode(each))).load()


def test_an_incomplete_last_line_is_left_out_and_a_damaged_one_is_named(workdir):
    metrics = workdir / 'metrics.jsonl'
    report.write(workdir)
    whole = (workdir / 'report.html').read_bytes()
    metrics.write_text(metrics.read_text() + '{"step": 61, "generator/lo')
    report.write(workdir)
    written = rb'Written [-\d: ]*'
    again = (workdir / 'report.html').read_bytes()
    assert re.sub(written, b'', again) == re.sub(written, b'', whole)
    metrics.write_text(metrics.read_text() + 'ss": 1}\n{"step": 62}\nnonsense\n{"step": 63}\n')
    with pytest.raises(UserError, match=r'Line 66 of .* is not valid'):
        report.write(workdir)


def test_a_run_ranked_by_a_metric_of_its_own_has_a_page_without_the_best_step(tmp_path):
    config = Config()
    config.checkpoint.best_metric = 'redness'
    write_run(tmp_path / 'run', config)
    report.write(tmp_path / 'run')
    text = Page((tmp_path / 'run/report.html').read_bytes()).text
    assert 'step 60' in text
    assert 'best, step' not in text


def test_a_foreign_file_among_the_samples_is_left_out_and_damaged_details_are_named(workdir):
    (workdir / 'samples/step_x.png').write_bytes(b'')
    report.write(workdir)
    (workdir / runs.DETAILS).write_text('{')
    with pytest.raises(UserError, match=r'images_eval\.json is damaged: remove it'):
        report.write(workdir)


def test_a_run_without_any_metrics_has_a_page(workdir):
    (workdir / 'metrics.jsonl').unlink()
    report.write(workdir)
    assert '0 of 400' in Page((workdir / 'report.html').read_bytes()).text


def test_a_long_run_has_a_page_of_bounded_size(tmp_path, monkeypatch):
    workdir = write_run(tmp_path / 'long', steps=2000, samples=45)
    report.write(workdir)
    record = runs.read(workdir)
    assert runs.SAMPLES // 2 < len(record.samples) <= runs.SAMPLES
    assert max(record.samples) == 900
    size = (workdir / 'report.html').stat().st_size
    pictures = sum(len(jpeg) for jpeg in record.samples.values()) * 4 / 3
    assert size - pictures < 250_000  # charts and all else


def test_a_sample_grid_is_compressed_to_the_stated_size(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (350, 600, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / 'step_00000001.png')
    jpeg = runs._sample_jpeg(tmp_path / 'step_00000001.png')
    assert len(jpeg) < 150_000 < len(runs.encode_jpeg(Image.fromarray(noise), 85))
    (tmp_path / 'step_00000002.png').write_bytes(b'no image')
    assert list(runs._samples(tmp_path)) == [1]


def test_the_fields_that_differ_from_the_defaults_come_first(tmp_path):
    config = Config()
    config.generator = config.generator.clone(width=7)
    config.loss.weights = {'adversarial': 1.0, 'mse': 2.5}
    workdir = write_run(tmp_path / 'run', config)
    report.write(workdir)
    text = Page((workdir / 'report.html').read_bytes()).text
    first, rest = re.split(r'All \d+ fields', text.partition('field value default')[2])
    assert first.strip() == ('generator.width 7 32 loss.weights.mse 2.5 loss.weights.l1 100')
    assert 'stall_timeout 900' in rest


def test_a_network_that_this_process_does_not_know_is_shown(workdir):
    described = json.loads((workdir / 'config.json').read_text())
    described['config']['generator'] = {'name': 'of_mine', 'depth': 3}
    (workdir / 'config.json').write_text(json.dumps(described))
    report.write(workdir)
    assert 'generator.name of_mine unet' in Page((workdir / 'report.html').read_bytes()).text


def outage():
    error = OSError('503')
    error.code = 503
    return error


@pytest.mark.parametrize(
    'error',
    [UserError('report.html cannot be written (No space left).'), outage(), KeyError('defect')],
    ids=['disk full', 'outage', 'defect'],
)
def test_a_page_that_cannot_be_written_is_named_and_nothing_ends(workdir, monkeypatch, error):
    report.write(workdir)
    before = (workdir / 'report.html').read_bytes()

    def fail(*args):
        raise error

    monkeypatch.setattr(files, 'write_atomically', fail)
    said = []
    report.try_to_write(workdir, said.append)
    assert len(said) == 1
    assert said[0].startswith('report.html is not written, and the run goes on (')
    assert '\n' not in said[0]
    assert (workdir / 'report.html').read_bytes() == before
    assert [p.name for p in workdir.iterdir() if p.name.startswith('.')] == []


def test_a_job_and_a_training_use_different_temporary_files(workdir, monkeypatch):
    seen = []
    replace = os.replace
    monkeypatch.setattr(
        type(workdir), 'replace', lambda self, to: (seen.append(self.name), replace(self, to))
    )
    report.write(workdir)
    report.write(workdir, 'eval.tmp')
    assert seen == ['.report.html.tmp', '.report.html.eval.tmp']


def test_runs_are_compared_by_name_with_what_differs(tmp_path):
    other = Config()
    other.seed = 5
    places = {'one': write_run(tmp_path / 'a'), 'two': write_run(tmp_path / 'b', other, 40)}
    report.write_runs(tmp_path / 'out.html', places)
    page = Page((tmp_path / 'out.html').read_bytes())
    assert 'one / two' in page.text
    assert 'seed 0 5' in page.text
    assert 'stall_timeout' not in page.text
    labels = [value for _, name, value in page.attributes if name == 'data-label']
    assert labels.count('one') == labels.count('two') > 5
    assert 'one 60 training 20.60' in page.text
    assert 'two 40 training 20.40' in page.text


def test_smoothed_values_are_weighted_means_of_the_values_before():
    y = np.random.default_rng(0).standard_normal(120)
    decay = 1 - 1 / 4
    for end in (0, 1, 50, 119):
        weights = decay ** np.arange(end, -1, -1)
        expected = (weights * y[: end + 1]).sum() / weights.sum()
        assert charts.smoothed(y)[end] == pytest.approx(expected)


def test_thinned_lines_keep_their_mean_and_their_extremes():
    y = np.random.default_rng(0).standard_normal(1200)
    x, mean, least, most = charts.thin_out(np.arange(1200), y)
    assert len(x) == 300
    assert x[0] == 1.5
    np.testing.assert_allclose(mean, y.reshape(300, 4).mean(1))
    assert (least.min(), most.max()) == (y.min(), y.max())


@pytest.mark.parametrize(('low', 'high'), [(0, 1), (-3, 17), (1e-5, 2.1e-4), (9990, 10010)])
def test_ticks_are_round_and_within_the_axis(low, high):
    found = charts.ticks(low, high)
    assert 3 <= len(found) <= 8
    assert low - 1e-12 <= found[0] < found[-1] <= high + 1e-12
    step = found[1] - found[0]
    assert f'{step:.0e}'[0] in '125'
    np.testing.assert_allclose(np.diff(found), step)


def test_values_of_images_are_kept_and_undefined_ones_are_null(workdir):
    described = evaluated(workdir)
    again = json.loads((workdir / report.DETAILS).read_text())
    assert again['images']['psnr'] == described['images']['psnr'] == [30, 26, 22, 18, 14, 10]
    assert again['images']['blotchiness'][:2] == [1.25, None]
    assert np.sum(again['ab_histogram']['original']) == 6 * 4
    assert [each['index'] for each in again['photographs']] == [5, 4, 3, 2, 1, 0]


def test_values_that_are_not_finite_are_null_last_and_shown_as_nothing(workdir):
    images = {'index': np.arange(3), 'psnr': np.array([np.nan, 20, 10])}
    images |= {'psnr_gray': np.array([60.0, np.inf, 21]), 'ab_mae': np.array([np.nan, 1, 2])}
    histogram = np.ones((3, 23, 23), np.int64)
    images |= {'ab_histogram': histogram, 'ab_histogram_original': histogram}
    assert details.extremes(images) == [2, 1]
    assert details.extremes({**images, 'psnr': np.full(3, np.nan)}) == [0, 1, 2]
    scores = {'eval/psnr': np.nan, 'eval/psnr_gray': np.inf, 'eval/ab_mae': 1.5, 'eval/images': 3}
    square = {kind: np.zeros((8, 8, 3)) for kind in ('gray', 'colorized', 'original')}
    shown = dict.fromkeys((0, 1, 2), square)
    described = details.describe(40, Source(), Config(), scores, images, shown)
    assert described['scores'] == {
        'eval/psnr': None,
        'eval/psnr_gray': None,
        'eval/ab_mae': 1.5,
        'eval/images': 3,
    }
    assert described['images']['psnr'] == [None, 20, 10]
    files.write_json(workdir / report.DETAILS, described)  # strict JSON
    report.write(workdir)
    text = Page((workdir / 'report.html').read_bytes()).text
    assert 'PSNR - dB (gray 60.00), ab error -' in text
    assert 'nan' not in text
    names = re.findall(r'(\d)<script>\S+\.png', text.partition('A click on a heading')[2])
    assert names == ['2', '1', '0']
    assert '1 of them are gray and do not count in the PSNR of gray.' in text


def test_a_run_whose_ranking_metric_is_always_null_has_a_page(workdir):
    metrics = workdir / 'metrics.jsonl'
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines = [line | ({'eval/ab_mae': None} if 'eval/ab_mae' in line else {}) for line in lines]
    metrics.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    report.write(workdir)
    assert 'best, step' not in Page((workdir / 'report.html').read_bytes()).text
