"""ChromaGAN (Vitoria, Raad & Ballester, WACV 2020, https://arxiv.org/abs/1907.09837).

    python -m chromagan_jax.main --config=configs/chromagan.py \
        --config.pretrained.vgg16=vgg16.safetensors --config.data.source=DIR \
        --config.eval.source=HELD_OUT_DIR

From the paper and its code:

- Lab at 224 px, batch 10, 5 epochs of ImageNet, one D update a step.
- G: two branches on VGG16's features up to block4_conv3, which are fine-tuned, and a class head
  that is trained towards VGG16's class probabilities of the gray image. 171.2 M parameters, 47.5 M
  of them without the class head.
- D: PatchGAN without norm on L and ab, 2.76 M parameters.
- G's loss: MSE + 0.003 KL(VGG16 || class head) - 0.1 mean D(fake). D's loss: WGAN-GP with weight
  10, which interpolates only ab.
- Adam 2e-5 (0.5, 0.999) for both.

Different here: tanh gives ab/110, as in all Lab configs. In the reference a sigmoid gives ab/255.

`pretrained.vgg16` names a file of torchvision's `vgg16` weights, .safetensors or .npz. Without it
the backbone starts from random weights, and the class head learns from the labels of the data
(data.labels=True) or is left out with its loss term. The log says which. The network takes one
size: eval.size must be 0 or data.size.
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
    config.ema_decay = 0.0  # no moving average

    config.generator = TwoBranch(
        width=64,  # features of VGG16's first block
        classes=1000,  # of the class head; left out if it has no teacher and no labels
    )
    config.discriminator = PatchGAN(
        width=64,  # 64-128-256-512-1
        norm='none',
        slope=0.3,  # of LeakyReLU, as in Keras
        same=True,  # SAME padding at stride 1: 28 x 28 logits
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
