"""pix2pix in Lab: U-Net-256 with dropout as noise, and the 70 x 70 PatchGAN.

    python -m chromagan_jax.main --config=configs/pix2pix.py \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR

The reference ("IMAGE-COLORIZATION") follows a tutorial, which follows Isola et al. 2017
(https://arxiv.org/abs/1611.07004). The sources are:

- Reference: G maps the gray image and noise to a and b; D takes them with L; GAN loss plus
  lambda L1, and the reason for L1 instead of L2.
- Tutorial: 256 px, L/50 - 1, ab/110, batch 16, 8,000 photographs of COCO, Adam 2e-4 (0.5, 0.999),
  lambda 100, no label smoothing, one D update a step.
- pix2pix's code: random 256 px crops of 286 px, flips, initial weights from N(0, 0.02), D's loss
  halved, batch norm except on the first and innermost levels, 100 epochs at the full rate and 100
  of linear decay to 0, no moving average.

pix2pix itself trains with batch 1. At test time it uses the batch statistics of each image
(generator.test_mode='batch') and noise (colorize.sample_noise=True).

generator.noise_channels=1 adds noise as an input. pretrain_steps=10000 is the second part of
the tutorial, which first trains G for 20 epochs on L1 only (there with Adam 1e-4).
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
    config.ema_decay = 0.0  # no moving average

    config.generator = UNet(
        width=64,  # 64-128-256-512x5, 54.41 M parameters
        dropout=0.5,  # the noise z
        noise_channels=0,  # channels of Gaussian noise beside L
    )
    config.discriminator = PatchGAN(width=64)  # 64-128-256-512-1, 2.77 M parameters

    config.loss.label_smoothing = 0.0
    for optimizer in (config.generator_optimizer, config.discriminator_optimizer):
        optimizer.schedule = 'linear'  # to 0
        optimizer.decay_from = 0.5  # over the second 100 epochs

    config.data.size = 256
    config.eval.batch_size = 16
    config.log_every = 100
    config.eval_every = 2_500
    config.sample_every = 2_500
    config.checkpoint_every = 2_500
    return config
