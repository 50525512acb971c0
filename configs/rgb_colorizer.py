"""Gray to RGB: an encoder-decoder of valid convolutions, trained by MSE at 200 px.

    python -m chromagan_jax.main --config=configs/rgb_colorizer.py \
        --config.data.source=DIR --config.eval.source=HELD_OUT_DIR

From the reference ("Image_Colorization_Using_GAN"):

- Input gray 200 x 200, output RGB through ReLU; values are divided by 255.
- G: encoder 16, 32, 64, 128 with 5x5 and 3x3 kernels and LeakyReLU; bottleneck 3x3-128 with tanh;
  a decoder of transposed convolutions, with the encoder's features concatenated.
- D on the RGB image without the condition: 32, 64, 128, 256 with 7x7, 5x5 and 3x3 kernels, ReLU,
  max pooling after every two convolutions, dense 512-128-16-1, sigmoid (here part of the loss).
- D's loss is binary cross-entropy, G's is MSE. D has no influence on G unless
  loss.weights.adversarial is set.
- Adam 5e-4 for both, 200 epochs, 900 training and 100 test images.

Chosen here, because the reference does not say: batch 10; Adam's other values and the initial
weights, as in Keras; no flips.

Different here: the short side is resized to 200 px and a square is cropped. The reference resizes
to 200 x 200 without keeping the aspect ratio.
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
    config.ema_decay = 0.0  # no moving average

    config.generator = EncoderDecoder(
        width=16,  # features of the first convolution; 1.41 M parameters
        slope=0.3,  # of LeakyReLU, as in Keras 2
    )
    config.discriminator = DenseDiscriminator(
        widths=(32, 64, 128, 256),  # of the blocks, each with 2x2 max pooling
        kernels=(7, 5, 3, 3),  # px, of their convolutions
        convolutions=2,  # in each block
        padding='valid',
        hidden=(512, 128, 16),  # dense layers before the logit; 7.81 M parameters
        slope=0.0,  # ReLU
        norm='none',
        conditional=False,  # takes only the RGB image
    )

    config.loss.weights = {'mse': 1.0}  # no adversarial loss
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
