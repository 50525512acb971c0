"""Gray to RGB: a valid-convolution encoder-decoder trained by mean squared error, 200 px.

    python -m chromagan_jax.main --config=configs/rgb_colorizer.py \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR

The reference ("Image_Colorization_Using_GAN") says: gray 200 x 200 in, RGB out through a ReLU;
encoder 16, 32, 64, 128 with 5x5 and 3x3 kernels and LeakyReLU, bottleneck 3x3-128 tanh, transposed
convolutions back with the encoder's features concatenated; D on the RGB image alone, 32, 64, 128,
256 with 7x7, 5x5 and 3x3 kernels, ReLU and max pooling after every two, dense 512-128-16-1, sigmoid
(here in the loss). D's loss is binary cross-entropy on real and fake, G's is the mean squared
error: D is trained and has no say in G unless loss.weights.adversarial is set. Adam 5e-4 for
both, 200 epochs, 900 images to train and 100 to test.

Silent, chosen so: batch 10; Adam's other values and the weights' initial distribution, as Keras has
them; no flips. Its images are squeezed to 200 x 200; here the short side becomes 200 px and a
square is cropped. Picture values are over 255.

Measured on two cores of a Xeon at 128 px, batch 4: 1.3 images/s. After what fits into 15 minutes of
one core (153 updates, tools/compare.py): PSNR 18.4 dB (gray 22.2), colorfulness 21 of 43. At its
own size, and to its end, it was not run yet: that takes an accelerator.
"""

from chromagan_jax.config import Config
from chromagan_jax.models.dense import DenseDiscriminator
from chromagan_jax.models.encoder_decoder import EncoderDecoder


def get_config() -> Config:
    """`base` in RGB with the reference's networks and loss."""
    config = Config()
    config.steps = 18_000  # 200 epochs of 900 photographs
    config.batch_size = 10
    config.discriminator_steps = 1
    config.color_space = 'rgb'
    config.ema_decay = 0.0  # the raw weights count

    config.generator = EncoderDecoder(
        width=16,  # features of the first convolution; 1.41 M parameters
        slope=0.3,  # of LeakyReLU, as in Keras 2
    )
    config.discriminator = DenseDiscriminator(
        widths=(32, 64, 128, 256),  # of the blocks, each halved by max pooling
        kernels=(7, 5, 3, 3),  # px, of their convolutions
        convolutions=2,  # in each block
        padding='valid',
        hidden=(512, 128, 16),  # dense layers before the logit; 7.81 M parameters
        slope=0.0,  # ReLU
        norm='none',
        conditional=False,  # judges the RGB image alone
    )

    config.loss.weights = {'mse': 1.0}  # G learns from the squared error alone
    config.loss.label_smoothing = 0.0
    for optimizer in (config.generator_optimizer, config.discriminator_optimizer):
        optimizer.learning_rate = 5e-4
        optimizer.b1 = 0.9

    config.data.size = 200
    config.data.resize_ratio = 1.0
    config.data.flip = False
    config.log_every = 90  # an epoch
    config.eval_every = 900
    config.sample_every = 900
    config.checkpoint_every = 900
    return config
