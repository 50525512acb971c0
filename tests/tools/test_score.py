"""Standard scores, with random weights, against computations of their own."""

import json

import numpy as np
import pytest
import skimage.data
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from tools import score

SIZE = 64


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Six photographs that are not square, and versions with other colours, as JPEG and PNG."""
    root = tmp_path_factory.mktemp('score')
    rng = np.random.default_rng(0)
    for i in range(6):
        original = skimage.data.astronaut()[40 * i : 40 * i + 90, 60 * i : 60 * i + 120]
        made = np.clip(original * rng.uniform(0.7, 1.3, 3), 0, 255).astype(np.uint8)
        for folder, pixels, suffix in (('original', original, 'jpg'), ('colorized', made, 'png')):
            path = root / folder / f'deep/{i}.{suffix}'
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, quality=95)
    return root


def squares(folders, kind):
    """The photographs cut and resized by Pillow and NumPy: (6, 64, 64, 3) uint8."""
    found = []
    for path in sorted((folders / kind / 'deep').iterdir()):
        with Image.open(path) as image:
            left = (image.width - image.height) // 2
            square = image.crop((left, 0, left + image.height, image.height))
            found.append(np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BOX)))
    return np.stack(found)


def run(folders, capsys, *flags):
    argv = [f'--size={SIZE}', *flags, str(folders / 'colorized'), str(folders / 'original')]
    code = score.main(argv)
    said = capsys.readouterr()
    return code, json.loads(said.out) if code == 0 else said.err


def test_psnr_and_colorfulness_of_centre_squares(folders, capsys, tmp_path):
    code, scores = run(folders, capsys, f'--output={tmp_path / "scores.json"}')
    made, original = squares(folders, 'colorized'), squares(folders, 'original')
    pairs = zip(made, original, strict=True)
    psnr = np.mean([peak_signal_noise_ratio(b, a) for a, b in pairs])
    assert (code, scores['images'], scores['size']) == (0, 6, SIZE)
    assert scores['psnr'] == pytest.approx(psnr, abs=0.05)  # OpenCV's area filter, not Pillow's
    red, green, blue = np.moveaxis(original.astype(float), -1, 0)
    rg, yb = abs(red - green), abs(0.5 * (red + green) - blue)
    means = [x.mean((1, 2)) for x in (rg, yb)]
    spreads = [x.std((1, 2)) for x in (rg, yb)]
    cf = np.sqrt(spreads[0] ** 2 + spreads[1] ** 2) + 0.3 * np.sqrt(means[0] ** 2 + means[1] ** 2)
    assert scores['cf_original'] == pytest.approx(cf.mean(), rel=5e-3)
    assert scores['delta_cf'] == abs(scores['cf'] - scores['cf_original'])
    assert json.loads((tmp_path / 'scores.json').read_text()) == scores


def test_only_the_first_photographs_count(folders, capsys):
    pairs = score.find_pairs(folders / 'colorized', folders / 'original', 2)
    assert [[path.name for path in pair] for pair in pairs] == [
        ['0.png', '0.jpg'],
        ['1.png', '1.jpg'],
    ]
    code, scores = run(folders, capsys, '--first=2')
    assert (code, scores['images']) == (0, 2)
    assert 'fid' not in scores
    assert 'lpips' not in scores


@pytest.mark.parametrize(
    ('flags', 'sentence'),
    [
        (['--first=-1'], '--first must be 0 or more, not -1.'),
        (['--size=5'], '--size must be 11 or more, not 5.'),
        (['--inception=nowhere.pth'], 'There is no file nowhere.pth'),
        (['--net=resnet'], 'invalid choice'),
        (['third'], 'Name two folders'),
    ],
)
def test_a_wrong_command_ends_with_a_sentence(folders, capsys, flags, sentence):
    code, said = run(folders, capsys, *flags)
    assert code == 1
    assert sentence in said
    assert said.count('\n') == 1


def test_a_photograph_that_is_missing_is_named(folders, capsys, tmp_path):
    (tmp_path / 'colorized').mkdir()
    Image.new('RGB', (20, 20)).save(tmp_path / 'colorized/other.png')
    assert score.main([str(tmp_path / 'colorized'), str(folders / 'original')]) == 1
    assert 'lacks deep/0: colorize it too, or lower --first.' in capsys.readouterr().err


def random_state(module, seed=0):
    """A state dict with random weights of the scale that keeps activations alive."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    state = module.state_dict()
    for name, tensor in state.items():
        if tensor.ndim > 1:
            spread = (2 / tensor[0].numel()) ** 0.5
            state[name] = spread * torch.randn(tensor.shape, generator=generator)
    return state


def features_of(images, weights, layer):
    """Features by the network itself, (N, F)."""
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3('own', [layer], str(weights))
    with torch.no_grad():
        return network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))[0].numpy()


def frechet(a, b):
    """Frechet distance of two sets of few features, by the Gram matrix of the centred rows."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    left, right = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    overlap = np.linalg.svd(left @ right.T, compute_uv=False).sum()
    spread = (left**2).sum() + (right**2).sum() - 2 * overlap
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + spread


@pytest.mark.cluster  # eigenvalues of a 2048 x 2048 matrix
@pytest.mark.parametrize('layer', ['192', '2048'])
def test_fid_is_the_frechet_distance_of_the_features(folders, tmp_path, monkeypatch, layer):
    torch = pytest.importorskip('torch')
    module = pytest.importorskip('torch_fidelity.feature_extractor_inceptionv3')
    with monkeypatch.context() as patch:
        patch.setattr(module, 'load_state_dict_from_url', lambda *args, **kwargs: {})
        patch.setattr(module.FeatureExtractorInceptionV3, 'load_state_dict', lambda *args: None)
        network = module.FeatureExtractorInceptionV3('random', ['2048'])
    weights = tmp_path / 'inception.pth'
    torch.save(random_state(network), weights)
    pairs = score.find_pairs(folders / 'colorized', folders / 'original')
    images = [
        np.stack([score.read(path, SIZE) for path in side]) for side in zip(*pairs, strict=True)
    ]
    expected = frechet(*(features_of(side, weights, layer) for side in images))
    assert expected > 0
    assert score.fid(pairs, SIZE, weights, layer) == pytest.approx(expected, rel=1e-3)
    same = [(original, original) for _, original in pairs]
    assert score.fid(same, SIZE, weights, layer) == pytest.approx(0, abs=1e-3 * expected)


@pytest.mark.slow
def test_lpips_is_the_weighted_distance_of_normalized_features(folders, tmp_path):
    torch = pytest.importorskip('torch')
    lpips = pytest.importorskip('lpips')
    models = pytest.importorskip('torchvision.models')
    network = models.alexnet(weights=None).eval()
    network.load_state_dict(random_state(network))
    torch.save(network.state_dict(), tmp_path / 'alexnet.pth')
    pairs = score.find_pairs(folders / 'colorized', folders / 'original')

    linear = torch.load(
        f'{lpips.__path__[0]}/weights/v0.1/alex.pth', weights_only=True, map_location='cpu'
    )
    mean, std = (
        torch.tensor(x)[:, None, None] for x in ([-0.03, -0.088, -0.188], [0.458, 0.448, 0.45])
    )

    def features(path):
        image = torch.from_numpy(score.read(path, SIZE).transpose(2, 0, 1) / np.float32(127.5) - 1)
        x, found = ((image - mean) / std)[None], []
        for number, layer in enumerate(network.features):
            x = layer(x)
            if number in (1, 4, 7, 9, 11):
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    expected = []
    with torch.no_grad():
        for pair in pairs:
            layers = zip(*map(features, pair), strict=True)
            terms = [
                (linear[f'lin{i}.model.1.weight'][0] * (a - b)[0].square()).sum(0).mean()
                for i, (a, b) in enumerate(layers)
            ]
            expected.append(float(sum(terms)))
    found = score.lpips_distance(pairs, SIZE, tmp_path / 'alexnet.pth')
    assert found == pytest.approx(np.mean(expected), rel=1e-4)
    assert found > 0


@pytest.mark.slow
def test_weights_of_another_network_are_named(folders, capsys, tmp_path):
    torch = pytest.importorskip('torch')
    pytest.importorskip('lpips')
    pytest.importorskip('torch_fidelity')
    torch.save({'x': torch.zeros(1)}, tmp_path / 'x.pth')
    (tmp_path / 'y.pth').write_bytes(b'no weights')
    for flag, file, sentence in (
        ('--inception', 'x.pth', 'does not fit the Inception network'),
        ('--lpips', 'x.pth', 'does not fit --net=alex (it has no fitting features.0.weight)'),
        ('--lpips', 'y.pth', 'y.pth cannot be read (it holds more than tensors, or is damaged)'),
    ):
        code, said = run(folders, capsys, f'{flag}={tmp_path / file}')
        assert code == 1
        assert sentence in said
        assert said.count('\n') == 1


def test_an_output_that_cannot_be_written_is_named_before_anything_is_scored(
    folders, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(score, 'plain_scores', lambda *_: pytest.fail('it was scored'))
    (tmp_path / 'file').write_text('')
    for place, sentence in (
        (tmp_path / 'file/scores.json', 'cannot be written'),
        (tmp_path, 'is a folder: name a file with --output.'),
    ):
        code, said = run(folders, capsys, f'--output={place}')
        assert (code, said.count('\n')) == (1, 1)
        assert sentence in said
