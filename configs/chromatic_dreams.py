"""Gray to RGB: adversarial and mean squared error, one generator and two discriminator updates.

    python -m chromagan_jax.main --config=configs/chromatic_dreams.py \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR

The reference ("Chromatic Dreams: Image Colorization with Generative Adversarial Networks") says:
3,000 RGB images; one G update and two D updates a step; D gives real images probabilities near 1
and fakes near 0 (binary cross-entropy; loss.adversarial='lsgan' is the other reading of its
"L2/MSE loss"); G's images are to deceive D; mean squared error; Adam 5e-4. Where it calls the
grayscale images "ground truth labels" it means the input.

It names no networks, no colour space and no size: those of `rgb_colorizer`, its nearest relative.
It does not weigh its two terms: 1 : 100, as pix2pix weighs its own. It does not say how long: 200
epochs, as `rgb_colorizer`.

Measured on two cores of a Xeon at 128 px, batch 4: 1.0 images/s. After what fits into 15 minutes of
one core (131 updates, tools/compare.py): PSNR 17.6 dB (gray 22.2), colorfulness 15 of 43. At its
own size, and to its end, it was not run yet: that takes an accelerator.
"""

from chromagan_jax.config import Config, load


def get_config() -> Config:
    """`rgb_colorizer` with an adversary that counts."""
    config = load('rgb_colorizer')
    config.steps = 60_000  # 200 epochs of 3,000 photographs
    config.discriminator_steps = 2
    config.loss.weights = {'adversarial': 1.0, 'mse': 100.0}
    config.log_every = 100
    config.eval_every = 1_500  # 5 epochs
    config.sample_every = 1_500
    config.checkpoint_every = 1_500
    return config
