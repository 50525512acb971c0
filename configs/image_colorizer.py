"""U-Net with LeakyReLU both ways against a max-pool and dense discriminator, in Lab.

    python -m chromagan_jax.main --config=configs/image_colorizer.py \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR

The reference ("IMAGE COLORIZER") says: L in, a and b out through tanh; G is a U-Net of Conv,
BatchNorm, LeakyReLU down and ConvTranspose, BatchNorm, LeakyReLU up; D is convolutions with max
pooling, flatten, linear layers, sigmoid (here in the loss); binary cross-entropy with label
smoothing 0.1 plus 100 x L1; ReduceLROnPlateau; batch norm and regularization against overfitting;
25,000 images. It is silent on the rest, chosen so: the widths, dropout, Adam 2e-4 (0.5, 0.999) and
batch 16 of a related public code; 256 px (its seven halvings need 128 or more); D's widths;
smoothing of the real labels only; one D update a step; the plateau watches the L1 of the evaluation
(`ab_mae` is 110 times it) with PyTorch's factor and patience; weight decay 0.01, decoupled.

It names its own problems. For rates that diverge: reduce_lr_on_plateau. For a discriminator that
wins: its own learning rate, discriminator_steps, or discriminator_max_accuracy=0.8, above which it
is not updated. For noise and overfitting: generator.norm='instance' and generator.dropout, which it
names as what to try next. No data set is too large: photographs are read as they are needed.

Measured on two cores of a Xeon at 128 px, batch 4: 3.9 images/s. After what fits into 15 minutes of
one core (594 updates, tools/compare.py): PSNR 20.1 dB (gray 22.2), colorfulness 32 of 43. At its
own size, and to its end, it was not run yet: that takes an accelerator.
"""

from chromagan_jax.config import Config
from chromagan_jax.models.dense import DenseDiscriminator
from chromagan_jax.models.unet import UNet


def get_config() -> Config:
    """`base` with the reference's networks, and rates that fall on a plateau."""
    config = Config()
    config.steps = 100_000  # 64 epochs of 25,000 photographs
    config.batch_size = 16
    config.discriminator_steps = 1
    config.ema_decay = 0.0  # the raw weights count

    config.generator = UNet(
        widths=(64, 128, 256, 512, 512, 512, 512),  # seven halvings
        stem=64,  # features at full resolution, before the first halving
        activation='leaky_relu',  # of the way up too
        dropout=0.5,  # after the three transposed convolutions of 512 features ...
        dropout_from=0,  # ... which are the innermost
    )
    config.discriminator = DenseDiscriminator(
        widths=(32, 64, 128, 256, 256),  # of the blocks, each halved by max pooling
        kernels=(3, 3, 3, 3, 3),  # px, of their convolutions
        convolutions=1,  # in each block
        padding='same',
        hidden=(128,),  # dense layers before the logit
        slope=0.2,  # of LeakyReLU
        norm='batch',
        conditional=True,  # judges the whole Lab picture
    )

    config.loss.label_smoothing = 0.1
    for optimizer in (config.generator_optimizer, config.discriminator_optimizer):
        optimizer.weight_decay = 0.01
    config.reduce_lr_on_plateau.metric = 'ab_mae'
    config.reduce_lr_on_plateau.patience = 10
    config.reduce_lr_on_plateau.factor = 0.1

    config.data.size = 256
    config.eval.batch_size = 16
    config.log_every = 100
    config.eval_every = 1_500  # about an epoch
    config.sample_every = 1_500
    config.checkpoint_every = 1_500
    return config
