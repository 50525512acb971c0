"""The PyTorch program that `colorize` is compared with; the network is a stand-in."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data
from skimage.color import lab2rgb, rgb2lab

ROOT = Path(__file__).parents[2]
AB = (12, -20)  # of all pixels, at half the resolution of the input as the released network has it
# In a process of its own, since its flags would be those of every command here.
PROGRAM = f"""
import sys
from pathlib import Path
import numpy as np
from absl import flags
from benchmarks import torch_colorize
flags.FLAGS([sys.argv[0], '--photos=unused'])
predict = lambda light: np.full((light.shape[0] // 2, light.shape[1] // 2, 2), {AB}, np.float32)
getattr(torch_colorize, sys.argv[1])(predict, Path(sys.argv[2]), sys.argv[3])
"""


@pytest.mark.parametrize('name', ['plain', 'with_opencv'])
def test_both_ways_keep_the_lightness_and_write_the_colours_of_the_network(name, tmp_path):
    path, target = tmp_path / 'a.png', tmp_path / 'b.png'
    Image.fromarray(data.astronaut()[:90, 150:260]).save(path)
    command = [sys.executable, '-c', PROGRAM, name, str(path), str(target)]
    subprocess.run(command, cwd=ROOT, check=True)
    lab = rgb2lab(np.asarray(Image.open(path)))
    lab[..., 1:] = AB
    expected = 255 * lab2rgb(lab)
    np.testing.assert_allclose(np.asarray(Image.open(target)), expected, atol=2)
