"""Gray to RGB with an adversarial loss and MSE, one G update and two D updates a step.

    python -m chromagan_jax.main --config=configs/chromatic_dreams.py \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR

From the reference ("Chromatic Dreams: Image Colorization with Generative Adversarial Networks"):

- 3,000 RGB images; one G update and two D updates a step; Adam 5e-4.
- D's target is 1 for real images and 0 for fakes. This is binary cross-entropy here.
  loss.adversarial='lsgan' is the other reading of the reference's "L2/MSE loss".
- G's loss: the adversarial loss and MSE.

Chosen here, because the reference does not say:

- Networks, colour space and size: those of `rgb_colorizer`, the most similar system.
- Loss weights: adversarial 1, MSE 100, as pix2pix weighs its two terms.
- Length: 200 epochs, as in `rgb_colorizer`.
"""

from chromagan_jax.config import Config, load


def get_config() -> Config:
    """`rgb_colorizer` with an adversarial loss."""
    config = load('rgb_colorizer')
    config.steps = 60_000  # 200 epochs of 3,000 photographs
    config.discriminator_steps = 2
    config.loss.weights = {'adversarial': 1.0, 'mse': 100.0}
    config.log_every = 100
    config.eval_every = 1_500  # 5 epochs
    config.sample_every = 1_500
    config.checkpoint_every = 1_500
    return config
