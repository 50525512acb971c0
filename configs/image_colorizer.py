"""U-Net with LeakyReLU against a max-pool and dense discriminator, in Lab.

    python -m chromagan_jax.main --config=configs/image_colorizer.py \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR

From the reference ("IMAGE COLORIZER"):

- Input L, output a and b through tanh.
- G: U-Net; encoder of Conv, BatchNorm, LeakyReLU; decoder of ConvTranspose, BatchNorm, LeakyReLU.
- D: convolutions with max pooling, flatten, dense layers, sigmoid (here part of the loss).
- Loss: binary cross-entropy with label smoothing 0.1, plus 100 x L1. ReduceLROnPlateau.
- Batch norm and regularization against overfitting. 25,000 images.

Chosen here, because the reference does not say:

- Widths, dropout, Adam 2e-4 (0.5, 0.999) and batch 16: from related public code.
- 256 px: seven downsampling stages need 128 or more.
- D's widths; smoothing of real labels only; one D update a step; decoupled weight decay 0.01.
- The plateau watches `ab_mae` of the evaluation, which is 110 times its L1, with PyTorch's factor
  and patience.

The reference names three problems:

- Divergence: reduce_lr_on_plateau.
- A discriminator that wins: a lower learning rate of D, fewer discriminator_steps, or
  discriminator_max_accuracy=0.8.
- Noise and overfitting: generator.norm='instance' or another generator.dropout.
"""

from chromagan_jax.config import Config
from chromagan_jax.models.dense import DenseDiscriminator
from chromagan_jax.models.unet import UNet


def get_config() -> Config:
    """`base` with the reference's networks, and learning rates that drop on a plateau."""
    config = Config()
    config.steps = 100_000  # 64 epochs of 25,000 photographs
    config.batch_size = 16
    config.discriminator_steps = 1
    config.ema_decay = 0.0  # no moving average

    config.generator = UNet(
        widths=(64, 128, 256, 512, 512, 512, 512),  # seven downsampling stages
        stem=64,  # features at full resolution
        activation='leaky_relu',  # of the decoder
        dropout=0.5,  # after the three innermost transposed convolutions,
        dropout_from=0,  # which have 512 features
    )
    config.discriminator = DenseDiscriminator(
        widths=(32, 64, 128, 256, 256),  # of the blocks, each with 2x2 max pooling
        kernels=(3, 3, 3, 3, 3),  # px, of their convolutions
        convolutions=1,  # in each block
        padding='same',
        hidden=(128,),  # dense layers before the logit
        slope=0.2,  # of LeakyReLU
        norm='batch',
        conditional=True,  # takes L and ab
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
