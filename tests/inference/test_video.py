"""Films: carried colours, scenes, pixels of frames, and what a result keeps."""

import itertools
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

import chromagan_jax
from chromagan_jax.config.postprocess import OFF
from chromagan_jax.errors import UserError
from chromagan_jax.inference import metadata, photos

pytest.importorskip('av')

from chromagan_jax.inference.conditions import Conditions
from chromagan_jax.inference.files import MARK, Listed
from chromagan_jax.inference.outcomes import Job, Totals
from chromagan_jax.inference.video import batch, frames, mux, read, run, scenes, smoothing, write
from chromagan_jax.inference.video.smoothing import Blend, Colored
from tests.inference.films import (
    TIMES,
    decoded,
    make_film,
    moving,
    streams,
    times_of,
    two_scenes,
)

SIZE = 64


def texture(seed=0, side=160):
    noise = np.random.default_rng(seed).integers(0, 255, (side // 8, side // 8), np.uint8)
    return cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)


def shifted(image, x, y, side=96):
    return image[32 + y : 32 + y + side, 32 + x : 32 + x + side]


def paint(small, samples, points=()):
    """A network whose colours depend on the lightness alone."""
    light = np.stack([image[..., 0] for image in small]).astype(np.float32) / 255
    return np.stack([40 * (1 - light), 40 * (0.5 - light)], axis=-1)


def colorize(source, target, predict=paint, **options):
    film = read.probe(source)
    suffix, copied, _ = mux.choose_suffix(film)
    assert target.suffix == suffix
    chosen = run.Options(batch_size=4, **options)
    return run.colorize_film(film, target, copied, predict, SIZE, 'paint', chosen, lambda: False)


def test_warp_undoes_a_known_shift():
    image = texture()
    motion = np.full((96, 96, 2), (3, -2), np.float32)
    moved = smoothing.warp(shifted(image, 0, 0), motion)
    assert np.array_equal(moved[5:90, 5:90], shifted(image, 3, -2)[5:90, 5:90])


def test_the_flow_of_a_shifted_image_is_the_shift():
    image = texture()
    found = smoothing.flow(shifted(image, 3, -2), shifted(image, 0, 0))
    assert np.abs(found[8:-8, 8:-8] - (3, -2)).mean() < 0.1


def test_motion_is_trusted_where_it_is_seen_in_both_frames_and_nowhere_else():
    image = texture()
    before, now = shifted(image, 0, 0), shifted(image, 4, 0).copy()
    now[30:60, 30:60] = texture(1)[:30, :30]  # something that was hidden
    share = smoothing.trust(
        now, before, smoothing.flow(now, before), smoothing.flow(before, now), Blend()
    )
    assert share[5:25, 5:80].mean() > 0.8
    assert share[35:55, 35:55].mean() < 0.2
    assert share[:, -3:].max() == 0  # there the flow leaves the frame


def test_carried_colours_flicker_less_and_keep_their_mean():
    rng = np.random.default_rng(0)
    image = texture()
    carry, own, kept = None, [], []
    for number in range(20):
        light = shifted(image, number, 0)
        ab = (np.float32((20, -10)) + 8 * rng.standard_normal((96, 96, 2))).astype(np.float32)
        carry = smoothing.smooth(carry, light, ab, Blend())
        own.append(ab[20:76, 20:60])
        kept.append(carry.ab[20:76, 20:60])

    def flicker(colors):  # along the motion, which is a pixel a frame
        return np.mean([np.abs(b[:, :-1] - a[:, 1:]) for a, b in itertools.pairwise(colors)])

    assert flicker(kept[5:]) < 0.25 * flicker(own)
    np.testing.assert_allclose(np.mean(kept[-1], axis=(0, 1)), (20, -10), atol=1)


def test_without_trust_the_colours_are_those_of_the_network():
    ab = np.ones((96, 96, 2), np.float32)
    before = Colored(np.zeros((96, 96), np.uint8), -ab)
    after = smoothing.smooth(before, np.full((96, 96), 200, np.uint8), ab, Blend())
    np.testing.assert_allclose(after.ab, ab, atol=1e-3)


def test_cuts_are_found_and_motion_flashes_and_grain_are_none():
    image, rng = texture(), np.random.default_rng(0)
    here = shifted(image, 0, 0)
    assert scenes.is_cut(shifted(texture(1), 0, 0) // 2, here)
    assert scenes.is_cut(moving(3, 96, 96, 1), moving(3, 96, 96, 0))
    assert not scenes.is_cut(shifted(image, 3, 2), here)
    assert not scenes.is_cut(cv2.add(here, 60), here)
    grainy = np.clip(here + rng.normal(0, 12, here.shape), 0, 255).astype(np.uint8)
    assert not scenes.is_cut(grainy, here)
    assert not scenes.is_cut(np.zeros_like(here), np.zeros_like(here))


def test_nothing_is_carried_over_a_cut():
    looks, before = [], None
    for pixels in two_scenes(8):
        looks.append(frames.look(pixels, before, SIZE, OFF, None))
        before = looks[-1].light
    assert [look.starts for look in looks] == [True, *[False] * 3, True, *[False] * 3]
    carried = frames.color(looks, None, paint, 4, blend=Blend())
    alone = frames.color(looks, None, paint, 4, blend=None)
    assert np.array_equal(carried[4].ab, alone[4].ab)
    assert not np.array_equal(carried[3].ab, alone[3].ab)


def test_a_border_is_that_of_all_frames():
    bars = np.zeros((120, 160), np.uint8)
    bars[20:100] = moving(0, 80, 160)
    wide = bars.copy()
    wide[10:110] = moving(0, 100, 160)
    black = np.zeros_like(bars)
    assert frames.common_box([bars, black]) == (20, 100, 0, 160)
    assert frames.common_box([bars, wide, black]) == (10, 110, 0, 160)
    assert frames.common_box([black]) is None


@pytest.mark.parametrize('tags', [{}, {'color_range': 2}, {'pixels': 'yuv420p10le'}])
@pytest.mark.parametrize('rotation', [None, 90])
def test_a_frame_in_colour_keeps_the_lightness_of_its_source(tmp_path, tags, rotation):
    path = make_film(tmp_path / 'a.mkv', two_scenes(2), [0, 40], audio=None, **tags)
    film = read.probe(path)._replace(rotation=rotation or 0)
    source = next(iter(read.Frames(film)))
    pixels = read.pixels_of(source, film)
    light = photos.lightness(pixels)
    gray = photos.lightness(moving(0))
    np.testing.assert_allclose(np.rot90(light, -1 if rotation else 0), gray, atol=1.5)
    rgb = photos.recolor(
        pixels, photos.shrink(pixels, SIZE), np.full((SIZE, SIZE, 2), (10, 20)), deep=film.deep
    )
    result = write.to_frame(rgb, source, film)
    again = read.pixels_of(result, film)
    assert again.ndim == 3  # in colour
    assert np.abs(photos.lightness(again) - light).mean() < 0.3
    assert (result.pts, result.width, result.height) == (source.pts, source.width, source.height)
    assert result.format.name == ('yuv420p10le' if film.deep else 'yuv420p')
    assert result.color_range == film.range


def test_a_field_of_odd_height_keeps_the_lightness_of_its_source(tmp_path):
    frame = moving(0, height=70)  # fields of 35 rows, as in 720 x 486
    path = make_film(tmp_path / 'a.mkv', [frame, frame], [0, 40], audio=None)
    film = read.probe(path)._replace(interlaced=True)
    source = next(iter(read.Frames(film)))
    pixels = read.pixels_of(source, film)
    rgb = photos.recolor(
        pixels, photos.shrink(pixels, SIZE), np.full((SIZE, SIZE, 2), (10, 20)), deep=film.deep
    )
    result = write.to_frame(rgb, source, film)
    assert (result.width, result.height, result.format.name) == (64, 70, 'yuv444p')
    again = photos.lightness(read.pixels_of(result, film))
    assert np.abs(again - photos.lightness(pixels)).mean() < 0.3


def test_a_result_names_its_film_in_every_container(tmp_path):
    long = f'{"ö" * 28}.ts'  # its note is divided into packets
    for name in ('a.mp4', 'a.mov', 'a.mkv', 'a.nut', 'a.ts', 'a.m2ts', long):
        path = make_film(tmp_path / name, two_scenes(2), [0, 40], audio=None)
        target = tmp_path / 'out' / name
        target.parent.mkdir(exist_ok=True)
        assert colorize(path, target) == ''
        assert metadata.source_of(target) == name
        assert not metadata.is_of_another(target, path)
        jobs, _ = batch.plan([Listed(path, Path(name))], target.parent)
        assert [job.target for job in jobs] == [target]  # the same command finds its result


def test_a_name_that_is_too_long_for_mpeg_ts_still_gives_a_note(tmp_path):
    path = make_film(tmp_path / f'{"ö" * 100}.ts', two_scenes(2), [0, 40], audio=None)
    target = tmp_path / 'out' / path.name
    target.parent.mkdir()
    assert colorize(path, target) == ''
    assert f'{MARK} {chromagan_jax.__version__} (machine-made)'.encode() in target.read_bytes()


@pytest.mark.parametrize(('transfer', 'name'), [(16, 'PQ'), (18, 'HLG')])
def test_hdr_is_refused_with_its_name(tmp_path, transfer, name):
    tags = {'color_primaries': 9, 'color_trc': transfer, 'colorspace': 9, 'pixels': 'yuv420p10le'}
    path = make_film(tmp_path / 'a.mkv', two_scenes(2), [0, 40], audio=None, **tags)
    with pytest.raises(read.UnreadableFilmError, match=rf'it is HDR \({name}\): convert it'):
        read.probe(path)


def test_films_of_one_name_are_numbered(tmp_path):
    listed = []
    for folder in 'xyz':
        (tmp_path / folder).mkdir()
        path = make_film(tmp_path / folder / 'a.mp4', two_scenes(2), [0, 40], audio=None)
        listed.append(Listed(path, Path('a.mp4')))
    jobs, failures = batch.plan(listed, tmp_path / 'out')
    assert [job.target.name for job in jobs] == ['a.mp4', 'a.mp4.mp4', 'a.mp4.2.mp4']
    assert failures == []


def test_a_film_without_a_frame_in_its_middle_has_no_preview(tmp_path, monkeypatch):
    path = make_film(tmp_path / 'a.mkv', two_scenes(2), [0, 40], audio=None)
    job = Job(path, path)
    assert batch._preview(job) is not None
    monkeypatch.setattr(batch.read, 'samples', lambda film, number: iter(()))
    assert batch._preview(job) is None


def test_a_result_keeps_streams_times_and_tags(tmp_path):
    source = make_film(
        tmp_path / 'a.mkv',
        two_scenes(),
        subtitles='subrip',
        color_primaries=5,
        color_trc=6,
        colorspace=5,
        sample_aspect_ratio=Fraction(4, 3),
    )
    target = tmp_path / 'out' / 'a.mkv'
    target.parent.mkdir()
    assert colorize(source, target) == ''
    old, new = streams(source), streams(target)
    assert new['audio'] == old['audio']
    assert new['subtitle'] == old['subtitle']
    assert times_of(target) == times_of(source)
    assert new['video'][:2] == ('h264', 'deu')
    before, after = read.probe(source), read.probe(target)
    assert after._replace(path=source, notes=()) == before._replace(notes=())
    assert np.abs(np.diff(decoded(target)[0].astype(int), axis=2)).mean() > 5  # it is in colour
    assert [path.name for path in target.parent.iterdir()] == ['a.mkv']


def test_a_run_that_was_stopped_continues_with_the_same_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(run, 'MAX_SEGMENT', 6)
    source = make_film(tmp_path / 'a.mp4', two_scenes(), time_base=Fraction(1, 12800))
    whole, parts = tmp_path / 'whole' / 'a.mp4', tmp_path / 'parts' / 'a.mp4'
    for target in (whole, parts):
        target.parent.mkdir()
    seen = []

    def failing(small, samples, points=()):
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(len(small))
        return paint(small, samples)

    with pytest.raises(KeyboardInterrupt):
        colorize(source, parts, failing)
    assert not parts.exists()
    seen[:] = [0] * 5
    colorize(source, parts, failing)
    assert sum(seen) == len(TIMES) - 9  # the first scene was finished: segments of 6 and 3 frames
    colorize(source, whole)
    assert streams(parts) == streams(whole)
    assert [path.name for path in parts.parent.iterdir()] == ['a.mp4']


@pytest.mark.parametrize('kept', [0, 200])
def test_a_state_that_a_power_cut_damaged_ends_what_is_finished(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(run, 'MAX_SEGMENT', 6)
    source = make_film(tmp_path / 'a.mp4', two_scenes(), time_base=Fraction(1, 12800))
    whole, parts = tmp_path / 'whole' / 'a.mp4', tmp_path / 'parts' / 'a.mp4'
    for target in (whole, parts):
        target.parent.mkdir()
    seen, most = [], 4

    def failing(small, samples, points=()):
        if len(seen) == most:
            raise KeyboardInterrupt
        seen.append(len(small))
        return paint(small, samples)

    with pytest.raises(KeyboardInterrupt):
        colorize(source, parts, failing)
    (folder,) = parts.parent.iterdir()
    second = folder / '00000001.npz'
    second.write_bytes(second.read_bytes()[:kept])
    seen, most = [], None
    colorize(source, parts, failing)
    assert sum(seen) == len(TIMES) - 6  # all but the first segment
    colorize(source, whole)
    assert streams(parts) == streams(whole)


def test_an_output_with_a_colon_is_a_path_and_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = make_film(tmp_path / 'a.mkv', two_scenes(2), [0, 40], audio=None)
    target = Path('of:1') / 'a.mkv'
    target.parent.mkdir()
    assert colorize(source, target) == ''
    assert list(target.parent.iterdir()) == [target]


def test_a_result_that_another_run_made_of_another_film_meanwhile_is_a_failure(tmp_path, capsys):
    source = tmp_path / 'a.mkv'
    source.write_bytes(b'a film')
    job = Job(source, tmp_path / 'out' / 'a.mkv')
    job.target.parent.mkdir()
    job.target.write_text(metadata.note(source))
    options = paint, SIZE, 'paint', run.Options(), True
    outcomes = []
    conditions = Conditions(on_outcome=outcomes.append, overwrite=False)
    assert batch.colorize_films([job], *options, conditions) == Totals(0, 0, 0, 1)
    source.write_bytes(b'another film of that name')
    assert batch.colorize_films([job], *options, conditions) == Totals(0, 1, 0, 0)
    assert 'was made of another file with this name' in outcomes[1].reason
    assert 'a.mkv failed: ' in capsys.readouterr().err


def test_work_with_other_settings_is_removed(tmp_path):
    source = make_film(tmp_path / 'a.mp4', two_scenes(4), TIMES[:4], audio=None)
    target = tmp_path / 'out' / 'a.mp4'
    target.parent.mkdir()

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        colorize(source, target, interrupt)
    colorize(source, target, crf=30)
    assert [path.name for path in target.parent.iterdir()] == ['a.mp4']


def test_the_container_is_kept_if_it_holds_all_and_becomes_matroska_otherwise(tmp_path):
    two, times = two_scenes(2), [0, 40]
    kept = [('a.mp4', 'aac'), ('a.mov', 'pcm_s16le'), ('a.ts', 'mp2'), ('a.mkv', 'flac')]
    for name, audio in kept:
        film = read.probe(make_film(tmp_path / name, two, times, audio=audio))
        assert mux.choose_suffix(film)[0] == Path(name).suffix
    avi = make_film(tmp_path / 'a.avi', two, [0, 1], Fraction(1, 25), 'mpeg4', audio='pcm_s16le')
    assert mux.choose_suffix(read.probe(avi))[::2] == ('.mkv', ())


def test_results_have_names_of_their_own(tmp_path):
    two = two_scenes(2)
    listed = []
    for name, codec in (('a.avi', 'mpeg4'), ('a.mkv', 'libx264'), ('b.avi', 'mpeg4')):
        path = make_film(tmp_path / name, two, [0, 1], Fraction(1, 25), codec, audio=None)
        listed.append(Listed(path, Path(name)))
    jobs, failures = batch.plan(listed, tmp_path / 'out')
    assert [job.target.name for job in jobs] == ['a.mkv', 'a.mkv.mkv', 'b.mkv']
    assert failures == []
    with pytest.raises(UserError, match='choose another --output'):
        batch.plan(listed, tmp_path)


def test_a_file_that_is_no_film_is_named(tmp_path):
    text = tmp_path / 'text.mp4'
    text.write_text('Not a film.\n' * 100)
    sound = tmp_path / 'sound.mkv'
    film = make_film(tmp_path / 'film.mkv', two_scenes(2), [0, 40])
    import av

    with av.open(str(film)) as source, av.open(str(sound), 'w') as output:
        copy = output.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size:
                packet.stream = copy
                output.mux(packet)
    cut = make_film(tmp_path / 'cut.mp4', two_scenes())
    cut.write_bytes(cut.read_bytes()[:2000])
    listed = [Listed(path, Path(path.name)) for path in (text, sound, cut, tmp_path / 'none.mp4')]
    jobs, failures = batch.plan(listed, tmp_path / 'out')
    assert jobs == []
    for sentence, words in zip(
        failures,
        ('not a film that FFmpeg can read', 'holds no video', 'may be incomplete', 'No such file'),
        strict=True,
    ):
        assert words in sentence


def test_a_film_that_ends_early_is_colorized_as_far_as_it_goes(tmp_path):
    source = make_film(tmp_path / 'a.mkv', two_scenes() * 4, range(0, 72 * 40, 40), audio=None)
    source.write_bytes(source.read_bytes()[: int(0.4 * source.stat().st_size)])
    target = tmp_path / 'out' / 'a.mkv'
    target.parent.mkdir()
    assert 'could be read: the file is damaged or incomplete' in colorize(source, target)
    assert 10 < len(decoded(target)) < 60
