"""Sums do not depend on the order, and the report holds what they say, safely, every time."""

import base64
import io
import json
import random
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from chromagan_jax.errors import UserError
from chromagan_jax.prepare.pictures import REASONS, Dropped, Kept, Options, encode_jpeg
from chromagan_jax.prepare.report import MAX_EXAMPLES, add, empty, write_report

SIZES = [(64, 80), (300, 256), (255, 400), (5000, 4096), (640, 480)]


def picture(seed, height=150, width=200):
    return encode_jpeg(np.full((height, width, 3), [seed * 7 % 256, 90, 200], np.uint8), 90)


def outcome(number):
    """Three of four kept, the others dropped for each reason in turn; digests in mixed order."""
    digest = f'{number * 7919 % 1000:032x}'
    if number % 4 == 3:
        reason = REASONS[number // 4 % len(REASONS)]
        image = None if reason == 'undecodable' else picture(number, 60, 96)
        return Dropped(reason, f'detail {number}', image, digest), f'd/{number}.jpg', '', ''
    width, height = SIZES[number % len(SIZES)]
    kept = Kept(picture(number), width, height, 200, 150, number % 120 + 0.5, 4.0, 0, digest)
    split = 'test' if number % 5 == 0 else 'train'
    return kept, f'{"ab"[number % 2]}/{number}.jpg', 'ab'[number % 2], split


def summary_of(numbers):
    summary = empty()
    for number in numbers:
        summary = add(summary, *outcome(number))
    return summary


@pytest.fixture(scope='module')
def summary():
    return summary_of(range(200))


@pytest.fixture(scope='module')
def report(summary, tmp_path_factory):
    folder = tmp_path_factory.mktemp('report')
    write_report(folder, summary, Options()._asdict())
    return folder


def test_the_order_changes_nothing(summary):
    for seed in range(3):
        numbers = list(range(200))
        random.Random(seed).shuffle(numbers)
        assert summary_of(numbers) == summary


def test_the_examples_are_those_of_the_smallest_digests(summary):
    digests = sorted(one.digest for one, *_ in map(outcome, range(200)) if isinstance(one, Kept))
    assert [one.digest for one in summary.examples['kept']] == digests[:MAX_EXAMPLES]
    assert len(summary.examples['gray']) == 10


def test_the_json_counts_every_picture_once(report):
    facts = json.loads((report / 'report.json').read_text())
    assert list(facts)[:3] == ['kept', 'dropped', 'splits']
    assert facts['kept'] == 150
    assert facts['dropped'] == dict.fromkeys(REASONS, 10)
    kept = [one for one in map(outcome, range(200)) if isinstance(one[0], Kept)]
    tests = sum(split == 'test' for *_, split in kept)
    assert facts['splits'] == {'train': 150 - tests, 'test': tests}
    for label in 'ab':
        assert facts['labels'][label] == {
            split: sum(one[2:] == (label, split) for one in kept) for split in ('train', 'test')
        }
    assert facts['bytes'] == sum(len(one.image) for one, *_ in kept)
    assert facts['options'] == Options()._asdict()


def test_the_histograms_are_those_of_numpy(report):
    facts = json.loads((report / 'report.json').read_text())
    kept = [one for one, *_ in map(outcome, range(200)) if isinstance(one, Kept)]
    for name, values in (
        ('sizes', [min(one.width, one.height) for one in kept]),
        ('chroma', [one.chroma for one in kept]),
    ):
        bins = facts[name]
        expected = np.histogram(values, [*bins['from'], np.inf])[0]
        assert bins['counts'] == expected.tolist()
        assert sum(bins['counts']) == 150


def test_nothing_is_counted_as_zero_and_an_unknown_reason_is_not_lost(tmp_path):
    write_report(tmp_path, empty(), {})
    facts = json.loads((tmp_path / 'report.json').read_text())
    assert (facts['kept'], facts['splits']) == (0, {'train': 0, 'test': 0})
    assert facts['dropped'] == dict.fromkeys(REASONS, 0)
    write_report(tmp_path, add(empty(), Dropped('unlabelled', '', None, '0'), 'x.jpg'), {})
    facts = json.loads((tmp_path / 'report.json').read_text())
    assert facts['dropped'] == {**dict.fromkeys(REASONS, 0), 'unlabelled': 1}
    assert 'unlabelled' in (tmp_path / 'report.html').read_text()


class Page(HTMLParser):
    """Tags that are opened, checked to be closed in turn."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self._open = [], [], []
        self.feed(text)
        assert self._open in ([], ['html'])

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.images += [dict(attrs)['src']] if tag == 'img' else []
        if tag not in ('meta', 'img', 'br'):
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def test_the_page_stands_alone_and_shows_the_examples(report):
    text = (report / 'report.html').read_text()
    page = Page(text)
    assert not re.search(r'https?:|<script|<link|url\(', text)
    assert '150 of 200 pictures kept' in text
    assert page.tags.count('figure') == MAX_EXAMPLES + 10 * len(REASONS)
    assert len(page.images) == MAX_EXAMPLES + 10 * (len(REASONS) - 1)
    for uri in page.images:
        kind, _, data = uri.partition(',')
        assert kind == 'data:image/jpeg;base64'
        assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) == 96
    assert 'detail 3<' in text


def test_bars_are_as_tall_as_their_counts(report):
    facts = json.loads((report / 'report.json').read_text())
    text = (report / 'report.html').read_text()
    heights = [float(height) for height in re.findall(r'<rect [^>]*height="([\d.]+)"', text)]
    counts = np.array(facts['sizes']['counts'])
    np.testing.assert_allclose(heights[: len(counts)], 120 * counts / counts.max(), atol=0.051)
    assert len(heights) == len(counts) + len(facts['chroma']['counts'])


def test_names_and_details_cannot_break_the_page(tmp_path):
    name = '<script>alert("1")</script>&\udcff.jpg'  # a byte that is not UTF-8
    summary = add(empty(), Dropped('<b>', '<i> & "', None, '0'), name)
    kept = Kept(picture(1), 200, 150, 200, 150, 9.0, 4.0, 0, '1')
    write_report(tmp_path, add(summary, kept, 'k', '<u>', '<s>'), {'<em>': '</table>'})
    text = (tmp_path / 'report.html').read_text(encoding='utf-8')
    assert not {'script', 'b', 'i', 'u', 's', 'em'} & set(Page(text).tags)
    assert '&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;\\udcff.jpg' in text
    json.loads((tmp_path / 'report.json').read_text())


def test_the_same_pictures_give_the_same_bytes_in_any_order(report, tmp_path):
    write_report(tmp_path, summary_of(reversed(range(200))), Options()._asdict())
    for name in ('report.json', 'report.html'):
        assert (tmp_path / name).read_bytes() == (report / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ['report.html', 'report.json']


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot be written'):
        write_report(tmp_path / 'file' / 'report', empty(), {})
