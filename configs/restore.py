"""`base`, with post-processing of colorized photographs: colours, contrast and noise.

    python -m chromagan_jax.main --config=configs/restore.py \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR
    python -m chromagan_jax.colorize --workdir=runs/restore --output=restored old_photos/

From the reference ("Image Colorization using GAN"):

- A conditional GAN is trained on gray and colour images.
- The generator "samples from the learned distribution": `colorize --samples=3` or
  colorize.sample_noise. The noise is dropout.
- The results are processed: "color correction, contrast adjustment, noise reduction".

The reference names no networks and no losses: those of `base` are used. Training and evaluation
ignore the fields of `config.colorize`. `python -m chromagan_jax.colorize` reads them, and each is
also a flag of that command.
"""

from chromagan_jax.config import Config
from chromagan_jax.models.unet import UNet


def get_config() -> Config:
    """`base` with dropout and post-processing."""
    config = Config()
    config.generator = UNet(width=32, dropout=0.5)  # the noise of --samples
    config.colorize.saturation = 1.2  # networks predict weak colours
    config.colorize.white_balance = 'gray_world'  # removes a tint of the whole image
    config.colorize.white_balance_strength = 0.5  # 1 makes some hair blue
    config.colorize.contrast = 0.5  # share of CLAHE's lightness in the result
    config.colorize.clahe_clip = 2.0
    config.colorize.clahe_tiles = 8
    config.colorize.denoise_before = 0.0  # not in the reference; 3 suits grainy photographs
    config.colorize.denoise_after = 4.0  # of the colours only
    return config
