"""ChromaGAN (Vitoria, Raad & Ballester, WACV 2020): colours from context, on VGG16's features.

    python -m chromagan_jax.main --config=configs/chromagan.py \
        --config.pretrained.vgg16=vgg16.safetensors --config.data.source=DIR \
        --config.eval.source=HELD_OUT_DIR

The paper and its code: 224 px in Lab; G has two branches on VGG16's features up to block4_conv3,
trained along, and a class head that learns what VGG16 makes of the gray image; D is a PatchGAN
without norm on L and ab. G's loss: mean squared error + 0.003 KL(VGG16 || class head) - 0.1 mean
D(fake); D's: WGAN-GP with weight 10, only ab interpolated. Adam 2e-5 (0.5, 0.999) for both, batch
10, one D update a step, 5 epochs of ImageNet. G has 171.2 M parameters, 47.5 M of them without the
class head, D 2.76 M. There ab/255 leaves a sigmoid; here tanh gives ab/110, as in every Lab system.

VGG16's weights come from a file, torchvision's `vgg16` as .safetensors or .npz. Without one the
backbone starts from scratch and the class head learns from the labels of the data
(data.labels=True), or is left out together with its term; the run says which. The size of training
is the size of everything after it: eval.size is 0 or data.size.

Measured on two cores of a Xeon at 128 px, batch 4 without the class head: 2.8 images/s. After what
fits into 15 minutes of one core (327 updates, tools/compare.py, without VGG16's weights): PSNR
21.1 dB (gray 22.2), colorfulness 22 of 43. At its own size, and to its end, it was not run yet:
that takes an accelerator.
"""

from chromagan_jax.config import Config
from chromagan_jax.models.chromagan import TwoBranch
from chromagan_jax.models.patch import PatchGAN


def get_config() -> Config:
    """`base` with ChromaGAN's networks, losses and optimizers."""
    config = Config()
    config.steps = 640_000  # 5 epochs of ImageNet
    config.batch_size = 10
    config.discriminator_steps = 1
    config.ema_decay = 0.0  # the raw weights count

    config.generator = TwoBranch(
        width=64,  # features of VGG16's first block
        classes=1000,  # of the class head; none is made where nothing teaches it
    )
    config.discriminator = PatchGAN(
        width=64,  # 64-128-256-512-1
        norm='none',
        slope=0.3,  # of LeakyReLU, as in Keras
        same=True,  # stride-1 convolutions keep the size: 28 x 28 logits
    )

    config.loss.adversarial = 'wgan'
    config.loss.weights = {'adversarial': 0.1, 'mse': 1.0, 'classes': 0.003}
    config.loss.gradient_penalty_weight = 10.0
    config.loss.label_smoothing = 0.0
    for optimizer in (config.generator_optimizer, config.discriminator_optimizer):
        optimizer.learning_rate = 2e-5

    config.data.size = 224
    config.data.resize_ratio = 1.0
    config.data.flip = False
    config.log_every = 100
    config.eval_every = 5_000
    config.sample_every = 5_000
    config.checkpoint_every = 5_000
    return config
