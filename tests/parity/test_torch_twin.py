"""The PyTorch training of tools/torch_twin, without the files that it was used with."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import skimage.color
import skimage.data
from PIL import Image

torch = pytest.importorskip('torch', reason='needs PyTorch: pip install -e ".[parity]"')
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from chromagan_jax.data.sources import make_source  # noqa: E402
from chromagan_jax.errors import DivergedError, UserError  # noqa: E402
from tools import cli  # noqa: E402
from tools.torch_twin import checkpoint, color, data, model, networks, pack, step, train  # noqa: E402
from tools.torch_twin.options import parse, parse_stages  # noqa: E402

ROOT = Path(__file__).parents[2]
CPU = torch.device('cpu')
# Of the published files: kernel, stride, expanded and output channels of each block.
LITE0 = (
    *[(3, 1, 32, 16), (3, 2, 96, 24), (3, 1, 144, 24), (5, 2, 144, 40), (5, 1, 240, 40)],
    *[(3, 2, 240, 80), (3, 1, 480, 80), (3, 1, 480, 80), (5, 1, 480, 112), (5, 1, 672, 112)],
    *[(5, 1, 672, 112), (5, 2, 672, 192), (5, 1, 1152, 192), (5, 1, 1152, 192)],
    *[(5, 1, 1152, 192), (3, 1, 1152, 320)],
)
OUTPUTS = {
    'lite0': [16] + [24] * 2 + [40] * 2 + [80] * 3 + [112] * 3 + [192] * 4 + [320],
    'lite1': [16] + [24] * 3 + [40] * 3 + [80] * 4 + [112] * 4 + [192] * 5 + [320],
    'lite2': [16] + [24] * 3 + [48] * 3 + [88] * 4 + [120] * 4 + [208] * 5 + [352],
}


class Published(nn.Module):
    """EfficientNet-Lite0 with batch norms, its layers by their names in the published file."""

    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = nn.Conv2d(3, 32, 3, 2, bias=False), self.norm(32)
        self._blocks = nn.ModuleList()
        inputs = 32
        for kernel, stride, middle, outputs in LITE0:
            block = nn.Module()
            if middle != inputs:
                block._expand_conv = nn.Conv2d(inputs, middle, 1, bias=False)
                block._bn0 = self.norm(middle)
            block._depthwise_conv = nn.Conv2d(
                middle, middle, kernel, stride, groups=middle, bias=False
            )
            block._bn1 = self.norm(middle)
            block._project_conv = nn.Conv2d(middle, outputs, 1, bias=False)
            block._bn2 = self.norm(outputs)
            self._blocks.append(block)
            inputs = outputs

    @staticmethod
    def norm(channels):
        norm = nn.BatchNorm2d(channels, eps=1e-3)
        nn.init.uniform_(norm.weight, 0.5, 2)
        for values in (norm.bias, norm.running_mean):
            nn.init.normal_(values, std=0.2)
        nn.init.uniform_(norm.running_var, 0.2, 0.5)
        return norm

    def forward(self, x):
        """All maps, one a block; padding is SAME for sizes that strides divide."""
        pad = {(3, 1): (1, 1), (5, 1): (2, 2), (3, 2): (0, 1), (5, 2): (1, 2)}
        x, maps = functional.relu6(self._bn0(self._conv_stem(functional.pad(x, (0, 1, 0, 1))))), []
        for block, (kernel, stride, _, _) in zip(self._blocks, LITE0, strict=True):
            y = x
            if hasattr(block, '_expand_conv'):
                y = functional.relu6(block._bn0(block._expand_conv(y)))
            y = functional.pad(y, pad[kernel, stride] * 2)
            y = functional.relu6(block._bn1(block._depthwise_conv(y)))
            y = block._bn2(block._project_conv(y))
            x = x + y if x.shape == y.shape else y
            maps.append(x)
        return maps


@pytest.fixture(autouse=True)
def _one_thread():  # two would wait for each other while other tests use the cores
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def narrow(monkeypatch):
    """A generator with few channels in its decoder, and small photographs to evaluate on."""
    monkeypatch.setattr(model, 'Generator', partial(networks.Generator, widths=(16,) * 5))
    monkeypatch.setattr(train, 'VAL_SIDE', 64)


@pytest.fixture(scope='module')
def published():
    torch.manual_seed(0)
    return Published().eval()


@pytest.fixture(scope='module')
def files(published, tmp_path_factory):
    """Flags that name an encoder's file and packs of the sample photographs."""
    folder = tmp_path_factory.mktemp('twin')
    torch.save(published.state_dict(), folder / 'lite0.pth')
    source = make_source('sample')
    for name, count in (('train', len(source)), ('val', 1)):
        photographs = folder / name
        photographs.mkdir()
        for index in range(count):
            (photographs / source.name(index)).write_bytes(source[index]['image'])
        pack.main([str(photographs), f'--output={folder}/packs/{name}', '--workers=1'])
    return [
        *('--packs', f'{folder}/packs/train', '--val', f'{folder}/packs/val'),
        *('--encoder', f'{folder}/lite0.pth', '--workers', '1', '--device', 'cpu'),
    ]


def test_lab_is_that_of_scikit_image():
    rgb = np.random.default_rng(0).uniform(0, 1, (1, 64, 64, 3)).astype(np.float32)
    rgb[0, 0, :3] = [[0, 0, 0], [1, 1, 1], [0.02, 0.01, 0.03]]
    expected = skimage.color.rgb2lab(rgb)
    lightness, ab = color.rgb_to_lab(nchw(rgb))
    np.testing.assert_allclose(nhwc(torch.cat([lightness, ab], 1)), expected, atol=2e-3)
    back = nhwc(color.lab_to_rgb(lightness, ab))
    np.testing.assert_allclose(back, rgb, atol=2e-3)  # of black, 1e-4 in linear RGB


def test_the_encoder_sees_the_gray_of_the_lightness():
    lightness = np.linspace(0, 100, 101, dtype=np.float32).reshape(1, 1, -1, 1)
    lab = np.concatenate([lightness, 0 * lightness, 0 * lightness], -1)
    expected = (skimage.color.lab2rgb(lab) * 255 - 127) / 128
    np.testing.assert_allclose(nhwc(color.gray_rgb(nchw(lightness))), expected, atol=2e-3)


def test_gradients_of_the_colours_are_finite_at_black_white_and_outside_the_gamut():
    rgb = torch.tensor([0.0, 1e-6, 0.04045, 1.0]).expand(1, 3, 1, 4).clone().requires_grad_()
    sum(part.sum() for part in color.rgb_to_lab(rgb)).backward()
    lightness = torch.tensor([0.0, 0.0, 50.0, 100.0]).view(1, 1, 1, 4).requires_grad_()
    ab = torch.tensor([[0.0, 110.0, -110.0, 110.0]] * 2).view(1, 2, 1, 4).requires_grad_()
    (color.lab_to_rgb(lightness, ab).sum() + color.gray_rgb(lightness).sum()).backward()
    for leaf in (rgb, lightness, ab):
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('kernel', [1, 3, 5])
def test_the_padding_is_the_one_that_tensorflow_and_jax_call_same(kernel, stride):
    conv = networks.SameConv(2, 3, kernel, stride, bias=False)
    for height, width in ((8, 9), (7, 12), (5, 6)):
        x = torch.randn(1, 2, height, width)
        expected = jax.lax.conv_general_dilated(
            x.numpy(), conv.weight.detach().numpy(), (stride, stride), 'SAME'
        )
        np.testing.assert_allclose(conv(x).detach(), expected, atol=1e-5)


def test_the_folded_encoder_computes_what_the_published_one_does(published, files):
    lite = networks.Lite().load(files[files.index('--encoder') + 1])
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        maps, expected = lite(x), published(x)
    for map_, block, stride in zip(maps, (0, 2, 4, 10, 15), (2, 4, 8, 16, 32), strict=True):
        assert map_.shape[2:] == (64 // stride, 96 // stride)
        scale = expected[block].abs().max()
        torch.testing.assert_close(map_ / scale, expected[block] / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize('variant', OUTPUTS)
def test_the_variants_have_the_channels_of_the_published_files(variant):
    lite = networks.Lite(variant)
    assert [block.project.out_channels for block in lite.blocks] == OUTPUTS[variant]
    stages = list(dict.fromkeys(OUTPUTS[variant]))
    assert lite.channels == tuple(stages[number] for number in (0, 1, 2, 4, 6))
    assert [m.shape[1] for m in lite(torch.zeros(1, 3, 32, 32))] == list(lite.channels)


def test_a_step_moves_the_generator_and_the_heads_and_not_the_frozen_features(files, narrow):
    twin = model.make_model('lite0', files[files.index('--encoder') + 1], CPU)
    before = {name: copy(getattr(twin, name)) for name in ('generator', 'projected', 'patch')}
    model.set_learning_rates(twin, 1e-3, 0.1)
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 48, 48, 3), dtype=torch.uint8)
    batch = data.draw_batch(images, 2, 32, 0.5, rng)
    metrics = step.train_step(twin, batch, step.LossWeights(30, 0.2, 2))
    assert metrics.isfinite().all()
    moved = {
        f'{name}.{key}'
        for name, state in before.items()
        for key, value in getattr(twin, name).state_dict().items()
        if not torch.equal(value, state[key])
    }
    assert 'generator.encoder.stem.weight' in moved
    assert 'generator.out.weight' in moved
    assert 'projected.heads.3.0.parametrizations.weight.original' in moved
    assert 'patch.0.parametrizations.weight.original' in moved
    assert not [key for key in moved if re.match(r'projected\.(features|mix|fuse)', key)]
    model.update_average(twin, 1)  # with a decay of 2 / 11
    old, new = before['generator']['out.weight'], twin.generator.out.weight
    torch.testing.assert_close(twin.average.out.weight, old * 2 / 11 + new * 9 / 11)


@pytest.mark.parametrize(('chroma', 'direction'), [(0.5, -1), (1.5, 1)])
def test_the_weight_of_l1_rises_where_the_fakes_are_too_colourful(files, chroma, direction):
    options = parse([*files, '--output=out', '--steps=1000'], None)
    progress = checkpoint.Progress(options.l1_weight, step=50)
    weights = []
    for number in range(1, 201):
        progress.step = 50 * number
        train.steer(progress, chroma, 1.0, options)
        weights.append(progress.l1_weight)
    assert set(weights[:8]) == {30}  # in the first 400 steps
    assert all(np.diff(weights[7:10]) * direction > 0)
    assert weights[-1] == (options.l1_max if direction > 0 else options.l1_min)
    assert progress.chroma_ratio == pytest.approx(chroma)


def test_the_rate_warms_up_stays_and_ends_at_a_hundredth():
    assert model.learning_rate(1.0, 0, 0.0) == pytest.approx(1 / 200)
    assert model.learning_rate(1.0, 999, 0.29) == 1
    assert model.learning_rate(1.0, 999, 0.65) == pytest.approx(0.51)
    assert model.learning_rate(1.0, 999, 1.0) == pytest.approx(0.01)


def test_a_crop_of_the_whole_image_is_the_image_or_its_mirror():
    rgb = torch.rand(8, 3, 16, 16)
    crops = data.random_crops(rgb, 16, 1.0, torch.Generator().manual_seed(0))
    plain = (crops - rgb).abs().amax((1, 2, 3)) < 1e-5
    mirrored = (crops - rgb.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    assert torch.equal(plain, ~mirrored)
    assert 0 < plain.sum() < 8


def test_a_pack_gives_back_the_photographs(tmp_path):
    coffee = Image.fromarray(skimage.data.coffee())
    coffee.save(tmp_path / 'b.png')
    coffee.resize((150, 100)).save(tmp_path / 'a.png')  # too small
    (tmp_path / 'c.jpg').write_bytes(b'no image')
    name = str(tmp_path / 'pack')
    pack.main([str(tmp_path), f'--output={name}', '--side=128', '--quality=90', '--workers=1'])
    [square] = data.load_packs([name], 128, workers=1).numpy()
    assert square.shape == (128, 128, 3)
    assert np.abs(square.mean((0, 1)) - np.asarray(coffee).mean((0, 1))).max() < 15
    Path(f'{name}.bin').write_bytes(b'cut')
    with pytest.raises(UserError, match='does not match'):
        data.load_packs([name], 128, workers=1)


@pytest.mark.parametrize(
    ('flags', 'sentence'),
    [
        (['--steps=2', '--packs=nowhere'], 'nowhere.npy does not exist'),
        (['--steps=2', '--encoder=nowhere.pth'], 'nowhere.pth: no such file'),
        (['--steps=2', f'--encoder={__file__}'], 'is no file of PyTorch weights'),
        (['--steps=2', '--variant=lite1'], 'does not hold EfficientNet-Lite1'),
        (['--steps=2', '--init_from=nowhere'], 'nowhere: no such file'),
        (['--steps=2', f'--init_from={__file__}'], 'holds no weights of this generator'),
        (['--steps=2', '--stages=64:4'], 'write SIZE:BATCH:SHARE'),
        (['--steps=2', '--stages=64:4:0.5,96:4:0.4'], 'add up to 0.9 instead of 1'),
        (['--steps=2', '--stages=16:4:1'], 'at least 32'),
        (['--steps=0'], 'must be above 0'),
        ([], '--seconds --steps is required'),
    ],
)
def test_a_mistake_ends_in_one_sentence(files, tmp_path, capsys, flags, sentence):
    code = cli.exit_code('train', lambda: train.main([*files, f'--output={tmp_path}/run', *flags]))
    message = capsys.readouterr().err
    assert code == 1
    assert sentence in message
    assert message.count('\n') == 1


def test_a_loss_that_is_not_finite_ends_the_run():
    progress = checkpoint.Progress(30.0, window=[torch.ones(8), torch.full((8,), torch.nan)])
    with pytest.raises(DivergedError, match='not finite at step 0'):
        train.check_finite(progress)


def test_stages_end_where_their_shares_do():
    stages = parse_stages('128:128:0.4,192:64:0.6')
    assert stages == [(128, 128, 0.4), (192, 64, 1.0)]
    assert train.current_stage(stages, 0.39)[0] == 0
    assert train.current_stage(stages, 0.4)[0] == 1


@pytest.mark.slow
def test_two_steps_write_a_log_and_weights_that_load(files, tmp_path):
    command = [*files, '--output', str(tmp_path), '--steps=2', '--stages=32:2:0.5,64:2:0.5']
    done = subprocess.run(
        [sys.executable, '-m', 'tools.torch_twin.train', *command],
        cwd=ROOT,
        env=os.environ | {'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / 'train.log').read_text().splitlines()]
    assert lines[0]['photographs'] == 6
    assert [line['step'] for line in lines if 'evaluated' in line] == [1, 2, 2]
    assert [(line['images'], line['size']) for line in lines if 'l1' in line] == [(4, 64)]
    weights = safetensors.numpy.load_file(tmp_path / 'generator.safetensors')
    assert {value.dtype for value in weights.values()} == {np.dtype('float16')}
    assert {'encoder.blocks.1.expand.weight', 'context.bias', 'up16.bn0.running_var'} <= {*weights}
    generator = networks.Generator().eval()
    checkpoint.load_weights(generator, tmp_path / 'generator.safetensors')
    assert generator(torch.zeros(1, 1, 48, 64)).shape == (1, 2, 24, 32)


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_in_the_same_bits(files, tmp_path, narrow, capsys, monkeypatch):
    flags = [*files, '--steps=2', '--stages=32:2:1']
    whole = [*flags, f'--output={tmp_path}/whole']
    parts = [*flags, f'--output={tmp_path}/parts', '--checkpoint_seconds=0']
    assert cli.exit_code('train', lambda: train.main(whole)) == 0

    def stop_at_the_second(*args):
        if (tmp_path / 'parts' / 'checkpoint.pt').exists():
            raise KeyboardInterrupt
        return data.draw_batch(*args)

    with monkeypatch.context() as patch:
        patch.setattr(train, 'draw_batch', stop_at_the_second)
        assert cli.exit_code('train', lambda: train.main(parts)) == 75
    assert cli.exit_code('train', lambda: train.main([*parts, '--chroma=0.5'])) == 1
    assert 'a run with --chroma 0.88 instead of 0.5' in capsys.readouterr().err
    assert cli.exit_code('train', lambda: train.main(parts)) == 0
    log = (tmp_path / 'parts' / 'train.log').read_text().splitlines()
    assert [json.loads(line)['step'] for line in log] == [0, 1, 1, 2, 2, 2]
    states = [
        torch.load(tmp_path / name / 'checkpoint.pt', weights_only=True)['model']
        for name in ('whole', 'parts')
    ]
    for part in ('generator', 'average', 'projected', 'patch'):
        for key, value in states[0][part].items():
            assert torch.equal(value, states[1][part][key]), f'{part}.{key}'


def copy(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def nchw(x):
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def nhwc(x):
    return x.numpy().transpose(0, 2, 3, 1)
