"""pix2pix in Lab: U-Net-256 with dropout for noise, and the 70 x 70 PatchGAN.

    python -m chromagan_jax.main --config=configs/pix2pix.py \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR

The reference ("IMAGE-COLORIZATION", after a tutorial, after Isola et al. 2017) says: G takes the
gray image and noise and makes a and b; D sees them beside L; loss GAN + lambda L1, and why L1
rather than L2. It shows the rest in pictures. From the tutorial: 256 px, L/50 - 1, ab/110, batch
16, 8,000 photographs of COCO, Adam 2e-4 (0.5, 0.999), lambda 100, no label smoothing, one D update
a step. From the pix2pix code: 286 px cropped to 256, flips, initial weights from N(0, 0.02), D's
loss halved, batch norm but on the first and innermost levels, 100 epochs at the full rate and 100
down to 0, no moving average. pix2pix itself has batch 1, and tests with each picture's own batch
statistics and with noise: generator.test_mode='batch' and colorize.sample_noise=True.

Noise beside dropout: generator.noise_channels=1. The tutorial's second stage, G trained with L1
alone before the game begins: pretrain_steps=10000 (its 20 epochs; there with Adam 1e-4).

Measured on two cores of a Xeon at 128 px, batch 4: 4.4 images/s. After what fits into 15 minutes of
one core (677 updates, tools/compare.py): PSNR 20.7 dB (gray 22.2), colorfulness 37 of 43. At its
own size, and to its end, it was not run yet: that takes an accelerator.
"""

from chromagan_jax.config import Config
from chromagan_jax.models.patch import PatchGAN
from chromagan_jax.models.unet import UNet


def get_config() -> Config:
    """`base` with pix2pix's networks, losses and schedule."""
    config = Config()
    config.steps = 100_000  # 200 epochs of 8,000 photographs
    config.batch_size = 16
    config.discriminator_steps = 1
    config.ema_decay = 0.0  # the raw weights count

    config.generator = UNet(
        width=64,  # 64-128-256-512x5, 54.41 M parameters
        dropout=0.5,  # the noise z
        noise_channels=0,  # of Gaussian noise beside L: another z
    )
    config.discriminator = PatchGAN(width=64)  # 64-128-256-512-1, 2.77 M parameters

    config.loss.label_smoothing = 0.0
    for optimizer in (config.generator_optimizer, config.discriminator_optimizer):
        optimizer.schedule = 'linear'  # to 0 ...
        optimizer.decay_from = 0.5  # ... over the second 100 epochs

    config.data.size = 256
    config.eval.batch_size = 16
    config.log_every = 100
    config.eval_every = 2_500
    config.sample_every = 2_500
    config.checkpoint_every = 2_500
    return config
