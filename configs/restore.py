"""`base`, and colorized photographs that are restored: colours, contrast and noise.

    python -m chromagan_jax.main --config=configs/restore.py \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR
    python -m chromagan_jax.colorize --workdir=runs/restore --output=restored old_photos/

The reference ("Image Colorization using GAN") says: train a conditional GAN on gray and colour
images; the generator "samples from the learned distribution" (colorize --samples=3, or
colorize.sample_noise; the noise is dropout); then "post-process the colored image to improve the
quality: color correction, contrast adjustment, noise reduction". It names no network: those of
`base`, which also gives the losses. The training is `base`'s; the fields below are read by
colorize, each is also its flag, and evaluation scores the network's own colours.

Costs what `base` costs. Measured on genuine black-and-white photographs of 0.65 megapixels, on one
core: the colour corrections cost nothing to speak of, contrast 40 ms a megapixel, noise reduction
45 ms a photograph. Half of gray_world takes most of a yellow cast away; all of it turns hair blue.
"""

from chromagan_jax.config import Config
from chromagan_jax.models.unet import UNet


def get_config() -> Config:
    """`base` with noise to sample from, and post-processing."""
    config = Config()
    config.generator = UNet(width=32, dropout=0.5)  # the noise that --samples draws
    config.colorize.saturation = 1.2  # colour correction: networks avoid strong colours
    config.colorize.white_balance = 'gray_world'  # colour correction: of a tint over everything ...
    config.colorize.white_balance_strength = 0.5  # ... half
    config.colorize.contrast = 0.5  # CLAHE's lightness and the photograph's own, half each
    config.colorize.clahe_clip = 2.0
    config.colorize.clahe_tiles = 8
    config.colorize.denoise_before = 0.0  # not in the reference; 3 for a grainy photograph
    config.colorize.denoise_after = 4.0  # noise reduction, of the colours
    return config
