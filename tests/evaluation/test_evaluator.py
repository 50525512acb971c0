import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.color
import skimage.data
import skimage.metrics
from flax import linen as nn
from jax.sharding import Mesh

from chromagan_jax import sharding
from chromagan_jax.data.pipeline import eval_batches
from chromagan_jax.data.sources import Source, make_source
from chromagan_jax.errors import UserError
from chromagan_jax.evaluation import evaluator, metrics, reductions
from chromagan_jax.gan import state
from chromagan_jax.gan.model import GanModel, make_model, predict
from chromagan_jax.models.pretrained import squeezenet
from chromagan_jax.utils import files, writers
from configs import base

SIZE = 32
GRAY, DAMAGED = 4, 7  # places of the odd ones among the files
COUNT = 12  # files: no batch size of the tests divides it


@pytest.fixture(scope='module')
def photographs() -> list[np.ndarray]:
    """Eleven crops that differ, one of them gray, (SIZE, SIZE, 3) uint8."""
    whole = skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()
    crops = [whole[i % 3][7 * i : 7 * i + 224 : 7, 9 * i : 9 * i + 224 : 7] for i in range(11)]
    crops[GRAY] = crops[GRAY][..., 1:2].repeat(3, axis=-1)
    return crops


@pytest.fixture(scope='module')
def source(photographs, tmp_path_factory) -> Source:
    """The photographs as files, and a damaged file among them."""
    folder = tmp_path_factory.mktemp('photographs')
    places = [i for i in range(COUNT) if i != DAMAGED]
    for place, photograph in zip(places, photographs, strict=True):
        files.write_png(folder / f'{place:02d}.png', photograph)
    (folder / f'{DAMAGED:02d}.png').write_bytes(b'no picture')
    return make_source(str(folder))


@pytest.fixture(scope='module')
def model() -> GanModel:
    config = base.get_config('tiny')
    config.data.size = SIZE
    return make_model(config)


@pytest.fixture(scope='module')
def variables(model) -> Any:
    """Random weights, and batch statistics that are not those of a new network."""
    init = jax.jit(lambda key: state.init_state(model, key, (SIZE, SIZE, 2)).generator)
    network = init(jax.random.key(3))
    moved = jax.tree.map(lambda x: x * 1.3 + 0.05, network.batch_stats)
    vivid = jax.tree.map(lambda x: 50 * x, network.params['out'])
    return {'params': network.params | {'out': vivid}, 'batch_stats': moved}


@pytest.fixture(scope='module')
def eight() -> Mesh:
    return sharding.make_mesh()


@pytest.fixture(scope='module')
def one() -> Mesh:
    return sharding.make_mesh(devices=jax.devices()[:1])


def scored(*args: Any) -> dict[str, float]:
    return evaluator.aggregate_metrics(evaluator.image_scores(*args))


def batches(source: Source, batch_size: int) -> list[dict[str, np.ndarray]]:
    rows = range(batch_size)
    return list(eval_batches(source, size=SIZE, space='lab', batch_size=batch_size, rows=rows))


@pytest.fixture(scope='module')
def scores(model, variables, source, eight) -> dict[str, float]:
    step = evaluator.jit_step(evaluator.eval_step, model, eight)
    return scored(step, variables, batches(source, 8), eight)


def plain_colorfulness(image: np.ndarray) -> float:
    r, g, b = image.reshape(-1, 3).astype(float).T
    rg, yb = r - g, (r + g) / 2 - b
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def plain_blotchiness(original: np.ndarray, colorized: np.ndarray) -> float:
    """Of two uint8 pictures of at most 64 px; NaN for a gray original."""

    def gradient(lab: np.ndarray) -> np.ndarray:
        steps = np.stack(np.gradient(lab, axis=(0, 1)))[:, 1:-1, 1:-1]
        return np.sqrt(np.square(steps).sum(axis=(0, -1)))

    lab, made = skimage.color.rgb2lab(original), skimage.color.rgb2lab(colorized)
    steep = gradient(lab[..., :1])
    smooth = steep <= np.median(steep)
    of_original = gradient(lab[..., 1:])[smooth].mean()
    return gradient(made[..., 1:])[smooth].mean() / of_original if of_original > 0.1 else math.nan


def plain_scores(
    generator: nn.Module, variables: Any, photograph: np.ndarray
) -> tuple[dict[str, float], np.ndarray]:
    """The figures of one photograph, by scikit-image on uint8 files, and its colorized file."""
    lab = skimage.color.rgb2lab(photograph)
    condition = (lab[None, ..., :1] / 50 - 1).astype(np.float32)
    ab = np.asarray(generator.apply(variables, condition, train=False))[0] * 110.0

    def picture(chroma: np.ndarray) -> np.ndarray:
        rgb = skimage.color.lab2rgb(np.concatenate([lab[..., :1], chroma], axis=-1))
        return np.rint(rgb * 255).astype(np.uint8)

    figures = {}
    for suffix, chroma in (('', ab), ('_gray', np.zeros_like(ab))):
        made = picture(chroma)
        error = np.square(made.astype(float) - photograph).mean()
        # The gray picture of a gray photograph may differ from it by a rounding here and there.
        figures['psnr' + suffix] = min(10 * math.log10(255**2 / error) if error else 60.0, 60.0)
        figures['ssim' + suffix] = skimage.metrics.structural_similarity(
            made,
            photograph,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=-1,
        )
        figures['ab_mae' + suffix] = np.abs(chroma - lab[..., 1:]).mean()
    figures['colorfulness'] = plain_colorfulness(picture(ab))
    figures['colorfulness_original'] = plain_colorfulness(photograph)
    figures['blotchiness'] = plain_blotchiness(photograph, picture(ab))
    return figures, picture(ab)


def plain_shares(pictures: list[np.ndarray]) -> np.ndarray:
    """Of all pixels, the shares whose ab is nearest to which multiples of ten."""
    ab = skimage.color.rgb2lab(np.stack(pictures))[..., 1:].reshape(-1, 2)
    edges = np.arange(-115, 116, 10)
    return np.histogram2d(*ab.T, bins=[edges, edges])[0] / len(ab)


@pytest.mark.filterwarnings('ignore:Conversion from CIE-LAB')  # colours out of gamut are clipped
def test_evaluate_equals_a_plain_loop_over_single_photographs(
    scores, model, variables, photographs
):
    single, colorized = zip(
        *(plain_scores(model.generator, variables, p) for p in photographs), strict=True
    )
    expected = {name: np.mean([s[name] for s in single]) for name in single[0]}
    assert [s['psnr_gray'] == 60 for s in single] == [i == GRAY for i in range(11)]
    colored = [s['psnr_gray'] for i, s in enumerate(single) if i != GRAY]
    expected['psnr_gray'] = np.mean(colored)
    ratios = np.array([s['blotchiness'] for s in single])
    assert np.flatnonzero(np.isnan(ratios)).tolist() == [GRAY]
    expected['blotchiness'] = np.nanmean(ratios)
    expected['blotchy_share'] = (ratios > 2).sum() / 10
    gap = abs(expected['colorfulness'] - expected['colorfulness_original'])
    expected |= {'colorfulness_gap': gap, 'images': np.float64(11)}
    shares, original = plain_shares(colorized), plain_shares(photographs)
    expected['ab_histogram'] = np.abs(shares - original).sum() / 2
    expected['ab_histogram_gray'] = 1 - original[11, 11]
    assert scores.keys() == {f'eval/{name}' for name in expected}
    for name, value in expected.items():
        assert scores[f'eval/{name}'] == pytest.approx(value, rel=1e-3), name


@pytest.mark.parametrize('devices', ['one', 'eight'])
@pytest.mark.parametrize('batch_size', [8, 16])
def test_scores_depend_on_neither_the_batch_size_nor_the_devices(
    request, scores, model, variables, source, batch_size, devices
):
    mesh = request.getfixturevalue(devices)
    step = evaluator.jit_step(evaluator.eval_step, model, mesh)
    got = scored(step, variables, batches(source, batch_size), mesh)
    assert got == pytest.approx(scores, rel=1e-5)


def frechet_scores(
    model: GanModel, variables: Any, batches: list, mesh: Mesh, features: str
) -> dict[str, float]:
    return scored(evaluator.make_eval_step(features, model, mesh), variables, batches, mesh)


@pytest.mark.filterwarnings('ignore:Conversion from CIE-LAB')
@pytest.mark.slow
def test_frechet_distances_are_those_of_the_pictures_files(
    model, variables, source, photographs, eight, one, features
):
    got = frechet_scores(model, variables, batches(source, 8), eight, features)
    colorized = [plain_scores(model.generator, variables, p)[1] for p in photographs]
    lightness = [skimage.color.rgb2lab(p) * [1, 0, 0] for p in photographs]
    gray = [np.rint(255 * skimage.color.lab2rgb(lab)) for lab in lightness]
    network = squeezenet.load(features)
    seen, of_gray, original = (
        squeezenet.features(network, jnp.asarray(np.stack(pictures), jnp.float32) / 255)
        for pictures in (colorized, gray, photographs)
    )
    expected = reductions.frechet_distance(np.asarray(seen), np.asarray(original))
    assert got['eval/frechet'] == pytest.approx(expected, rel=1e-2)
    of_gray = reductions.frechet_distance(np.asarray(of_gray), np.asarray(original))
    assert got['eval/frechet_of_gray'] == pytest.approx(expected / of_gray, rel=1e-2)
    again = frechet_scores(model, variables, batches(source, 16), one, features)
    assert again == pytest.approx(got, rel=1e-4)


def test_without_features_there_is_no_frechet_distance(scores):
    assert not [name for name in scores if 'frechet' in name]


def test_features_that_cannot_be_read_are_named(model, eight, tmp_path):
    with pytest.raises(UserError, match=r'there is no file of SqueezeNet 1\.1 weights .*gone\.npz'):
        evaluator.make_eval_step(str(tmp_path / 'gone.npz'), model, eight)


def test_among_gray_originals_no_share_of_grays_frechet_distance_is_taken(eight):
    def with_features(variables: Any, batch: Any) -> dict[str, jax.Array]:
        vectors = jnp.arange(24.0).reshape(8, 3) ** 2
        made = {'gray': vectors, 'colorized': vectors + 2, 'original': vectors}
        return echo(variables, batch) | {f'features_{k}': v for k, v in made.items()}

    values = dict.fromkeys(ECHOED, [60.0] * 8) | {'mask': [1.0] * 8}
    got = scored(with_features, None, [rows(**values)], eight)
    assert got['eval/frechet'] == pytest.approx(12)
    assert 'eval/frechet_of_gray' not in got


ECHOED = ('psnr', 'psnr_gray', 'colorfulness', 'colorfulness_original', 'blotchiness')


def rows(**values: list[float]) -> dict[str, np.ndarray]:
    """An evaluation batch that carries its own figures, for `echo` to give back."""
    figures = {name: np.asarray(value, np.float32) for name, value in values.items()}
    empty = np.zeros((8, 1, 1, 1), np.float32)
    packed = np.stack([figures[name] for name in ECHOED], axis=-1)[:, None, None]
    numbers = {'index': np.arange(8), 'unreadable': np.full(8, -1)}
    return {'condition': packed, 'target': empty, 'mask': figures['mask'], **numbers}


def echo(variables: Any, batch: Any) -> dict[str, jax.Array]:
    del variables
    figures = {name: batch['condition'][:, 0, 0, i] for i, name in enumerate(ECHOED)}
    counts = jnp.ones((8, 23, 23), jnp.int32)
    figures |= {'ab_histogram': counts, 'ab_histogram_original': counts}
    return figures | {'mask': batch['mask'], 'index': batch['index']}


def echoed(eight: Mesh, **changed: list[float]) -> dict[str, float]:
    values = {
        'psnr': [20.0, 22, 24, 26, 28, 30, 99, 99],
        'psnr_gray': [10.0, 12, 14, 16, 18, 60, 99, 99],
        'colorfulness': [10.0, 20, 30, 40, 50, 60, 99, 99],
        'colorfulness_original': [60.0, 50, 40, 30, 20, 40, 0, 0],
        'blotchiness': [0.5, 1, 2, 2.5, 4, math.nan, 9, 9],
        'mask': [1.0, 1, 1, 1, 1, 1, 0, 0],
    }
    return scored(echo, None, [rows(**(values | changed))], eight)


def test_only_rows_that_the_mask_admits_are_counted(eight):
    got = echoed(eight)
    assert got['eval/images'] == 6
    assert got['eval/psnr'] == 25
    everything = echoed(eight, mask=[1.0] * 8)
    assert everything['eval/images'] == 8
    assert everything['eval/psnr'] == (150 + 198) / 8


def test_a_gray_original_is_left_out_of_the_gray_pictures_psnr_only(eight):
    got = echoed(eight)
    assert got['eval/psnr_gray'] == 14
    assert got['eval/psnr'] == 25
    assert got['eval/colorfulness_original'] == 40


def test_the_colorfulness_gap_is_between_the_means_not_a_mean_of_gaps(eight):
    assert echoed(eight)['eval/colorfulness_gap'] == pytest.approx(5)  # of 35 and 40
    brighter = echoed(eight, colorfulness=[50.0] * 8)
    assert brighter['eval/colorfulness_gap'] == pytest.approx(10)  # never negative


def test_blotchiness_is_averaged_over_the_photographs_that_have_one(eight):
    got = echoed(eight)
    assert got['eval/blotchiness'] == 2
    assert got['eval/blotchy_share'] == 2 / 5  # of 2.5 and 4: 2 itself is not above 2
    without = echoed(eight, blotchiness=[math.nan] * 6 + [9, 9])
    assert [name for name in without if 'blotch' in name] == []


def test_batches_of_unlike_fill_are_averaged_by_photograph(eight):
    figures = dict.fromkeys(ECHOED, [30.0] * 8)
    full = rows(**figures, mask=[1.0] * 8)
    single = rows(**(figures | {'psnr': [12.0] * 8}), mask=[0.0] * 7 + [1.0])
    got = scored(echo, None, [full, single], eight)
    assert got['eval/images'] == 9
    assert got['eval/psnr'] == (8 * 30 + 12) / 9


def test_a_set_of_gray_originals_still_has_a_summary(eight):
    got = echoed(eight, psnr_gray=[60.0] * 8)
    assert 'eval/psnr_gray' not in got
    figures = {'ssim', 'ssim_gray', 'ab_mae', 'ab_mae_gray'}
    assert 'PSNR 25.00' in evaluator.summary(3, {f'eval/{name}': 0.5 for name in figures} | got)


def test_a_set_that_cannot_be_read_is_the_users_to_mend(eight):
    with pytest.raises(UserError, match=r'eval\.source'):
        echoed(eight, mask=[0.0] * 8)


@pytest.mark.parametrize(
    ('metric', 'better', 'worse'),
    [('psnr', 30.0, 20.0), ('ssim', 0.9, 0.1), ('ab_mae', 5.0, 9.0), ('colorfulness_gap', 1, 8)],
)
def test_the_score_is_lower_for_the_better_of_two(metric, better, worse):
    good, bad = (
        evaluator.score(metric, {f'eval/{metric}': value, 'eval/other': -100.0})
        for value in (better, worse)
    )
    assert good < bad
    assert {abs(good), abs(bad)} == {better, worse}


def test_every_metric_that_ranks_is_among_the_scores(scores):
    ranking = {name for name, metric in metrics.METRICS.items() if metric.better}
    assert ranking == {'psnr', 'ssim', 'ab_mae', 'colorfulness_gap'}
    assert {f'eval/{name}' for name in ranking} <= scores.keys()
    for name in ranking:
        evaluator.check_ranking('reduce_lr_on_plateau.metric', name)


@pytest.mark.parametrize('name', ['fid', 'colorfulness', 'psnr_gray', ''])
def test_what_cannot_rank_is_named_with_what_can(name):
    with pytest.raises(UserError) as error:
        evaluator.check_ranking('checkpoint.best_metric', name)
    assert str(error.value) == (
        f'checkpoint.best_metric is {name!r}; choose one of ab_mae, colorfulness_gap, psnr, ssim.'
    )


def test_a_ranking_metric_that_no_photograph_has_is_the_users_to_mend():
    with pytest.raises(UserError, match=r'^No photograph in eval\.source has a psnr: '):
        evaluator.score('psnr', {'eval/ssim': 0.5})


def test_the_summary_names_every_figure_beside_grays():
    names = ('psnr', 'psnr_gray', 'ssim', 'ssim_gray', 'ab_mae', 'ab_mae_gray')
    scores = dict(zip((f'eval/{n}' for n in names), (21, 22, 0.9, 0.8, 7, 8), strict=True))
    scores |= {'eval/colorfulness': 31.0, 'eval/colorfulness_original': 42.0}
    assert evaluator.summary(1200, scores) == (
        'step 1200: PSNR 21.00 dB (gray 22.00), SSIM 0.900 (gray 0.800), '
        'ab error 7.00 (gray 8.00), colorfulness 31.0 of 42.0'
    )


def test_the_summary_shows_a_metric_as_its_entry_says(monkeypatch):
    entries = {
        'plain': metrics.Metric(),
        'exact': metrics.Metric(label='exactness', format='{:.1f}', unit='px', beside='gray'),
        'warm': metrics.Metric(format='{:.0%}', beside='original'),
        'absent': metrics.Metric(),
        'hidden': metrics.Metric(shown=()),
    }
    monkeypatch.setattr(metrics, 'METRICS', entries)
    figures = {'plain': 1.0, 'exact': 2.0, 'exact_gray': 3.0, 'warm': 0.5, 'warm_original': 0.4}
    scores = {f'eval/{name}': value for name, value in (figures | {'hidden': 1.0}).items()}
    expected = 'step 3: plain 1.00, exactness 2.0 px (gray 3.0), warm 50% of 40%'
    assert evaluator.summary(3, scores) == expected


def test_figures_follow_from_the_entries(monkeypatch):
    entries = {
        'mean': metrics.Metric(lambda a, b: a, beside='gray'),
        'mean_gray': metrics.Metric(reads=('mean_gray',), reduce=lambda x: float(x.max())),
        'other': metrics.Metric(lambda a, b: a, beside='original'),
        'total': metrics.Metric(reads=('eval/mean', 'other'), reduce=lambda m, x: m + x.sum()),
        'none': metrics.Metric(reads=('mean',), reduce=lambda x: None),
        'of_none': metrics.Metric(reads=('eval/none',)),
        'of_what_is_not_measured': metrics.Metric(reads=('features_gray',)),
    }
    monkeypatch.setattr(metrics, 'METRICS', entries)
    rows = {'mean': [1, 3], 'mean_gray': [5, 7], 'other': [10, 20], 'other_original': [2, 4]}
    values = {name: np.array(row, np.float32) for name, row in rows.items()}
    assert evaluator.aggregate_metrics(values | {'index': np.arange(2)}) == {
        'eval/mean': 2,
        'eval/mean_gray': 7,
        'eval/other': 15,
        'eval/other_original': 3,
        'eval/total': 32,
        'eval/images': 2,
    }


@pytest.fixture(scope='module')
def render(model, eight) -> Callable[..., dict[str, jax.Array]]:
    return evaluator.jit_step(evaluator.render_step, model, eight)


@pytest.mark.filterwarnings('ignore:Conversion from CIE-LAB')
def test_render_step_shows_the_gray_the_colorized_and_the_original(
    render, model, variables, source, photographs
):
    batch = batches(source, 8)[0]
    inputs = {name: batch[name] for name in ('condition', 'target', 'mask', 'index')}
    got = jax.device_get(render(variables, inputs))
    lab = np.stack([skimage.color.rgb2lab(p) for p in photographs[:7]])
    target = np.asarray(predict(model.generator, variables, jnp.asarray(batch['condition'])))[:7]
    gray, colorized = (
        skimage.color.lab2rgb(np.concatenate([lab[..., :1], 110 * ab], axis=-1))
        for ab in (np.zeros_like(target), target)
    )
    np.testing.assert_allclose(got['original'][:7] * 255, photographs[:7], atol=0.05)
    np.testing.assert_allclose(got['gray'][:7], gray, atol=1e-3)
    np.testing.assert_allclose(got['colorized'][:7], colorized, atol=1e-3)
    np.testing.assert_array_equal(got['mask'], [1, 1, 1, 1, 1, 1, 1, 0])


def grid(render: Any, variables: Any, batch: Any, mesh: Mesh, most: int) -> tuple[list, np.ndarray]:
    """The rows that `sample_grid` lays out, and its picture."""
    seen: list = []
    lay_out = writers.sample_grid

    def note(rows: Any, labels: Any) -> np.ndarray:
        assert labels == ('gray', 'colorized', 'original')
        seen.extend(rows)
        return lay_out(rows, labels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writers, 'sample_grid', note)
        rendered = itertools.islice(evaluator.render(render, variables, [batch], mesh), most)
        return seen, evaluator.sample_grid(images for _, images in rendered)


@pytest.mark.parametrize(
    ('number', 'most', 'shown'),
    [
        (0, 8, range(7)),  # the eighth file is damaged
        (0, 3, range(3)),
        (1, 8, range(7, 11)),  # four files are left, and four rows of padding
        (1, 2, range(7, 9)),
    ],
)
def test_a_sample_grid_has_one_row_a_photograph_and_none_for_padding(
    render, variables, source, photographs, eight, number, most, shown
):
    batch = batches(source, 8)[number]
    rows, picture = grid(render, variables, batch, eight, most)
    assert len(rows) == len(shown)
    for row, index in zip(rows, shown, strict=True):
        large = np.kron(photographs[index], np.ones((4, 4, 1)))  # 32 px are shown as 128
        np.testing.assert_allclose(255 * row[2], large, atol=0.05)
        assert np.ptp(row[0], axis=-1).max() < 0.01
        assert row[0].shape == row[1].shape == row[2].shape
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    columns = -(-len(shown) // 4)
    assert picture.shape[0] > 128 * -(-len(shown) // columns)
    assert picture.shape[1] > 3 * 128 * columns


def test_a_sample_grid_finds_the_photographs_between_padding(render, variables, source, eight):
    batch = batches(source, 8)[0]
    batch['mask'] = np.asarray([0, 1, 0, 0, 1, 0, 1, 0], np.float32)
    rows, _ = grid(render, variables, batch, eight, 2)
    whole, _ = grid(render, variables, batches(source, 8)[0], eight, 8)
    for row, index in zip(rows, (1, 4), strict=True):
        np.testing.assert_array_equal(row, whole[index])


def test_rendered_images_come_with_their_index_and_only_readable_ones(
    render, variables, source, photographs, eight
):
    found = dict(evaluator.render(render, variables, batches(source, 8), eight))
    assert list(found) == [*range(7), *range(8, 12)]  # the eighth file is damaged
    for index, place in zip(found, range(11), strict=True):
        np.testing.assert_allclose(found[index]['original'] * 255, photographs[place], atol=0.05)


def test_large_pictures_are_shown_at_their_own_size(model, variables, eight):
    def rendered(variables: Any, batch: Any) -> dict[str, Any]:
        picture = np.zeros((8, 96, 200, 3), np.float32)
        return dict.fromkeys(evaluator.LABELS, picture) | {'mask': np.ones(8), 'index': np.ones(8)}

    empty, ones = np.zeros((8, 1, 1, 1), np.float32), np.ones(8, np.float32)
    batch = {'condition': empty, 'target': empty, 'mask': ones, 'index': ones, 'unreadable': -ones}
    rows, _ = grid(rendered, variables, batch, eight, 1)
    assert [picture.shape for picture in rows[0]] == [(96, 200, 3)] * 3


def test_devices_get_only_the_rows_of_a_sample(model, render, variables, source, eight):
    few = evaluator.jit_step(evaluator.render_step, model, eight, rows=3)
    batch = batches(source, 8)[0]
    inputs = {name: batch[name] for name in ('condition', 'target', 'mask')}
    inputs['index'] = batch['index'].astype(np.int32)
    placed = sharding.to_global(inputs, eight)
    got, whole = few(variables, placed), render(variables, placed)
    for name, rows in got.items():
        assert rows.shape[0] == 3
        np.testing.assert_array_equal(rows, whole[name][:3])
