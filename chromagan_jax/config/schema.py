"""The config schema: every field with type, default, range and a comment.

The defaults are those of configs/base.py. `config.steps = 100` sets a field.
`config.generator = UNet(width=64)` selects a network; its class documents the options.
"""

import dataclasses
from dataclasses import field
from typing import Annotated, Literal

from flax import linen as nn

from chromagan_jax.config import fields
from chromagan_jax.config.fields import Count, Decay, Fraction, NonNegative, Positive, Range
from chromagan_jax.config.postprocess import PostProcess
from chromagan_jax.errors import UserError
from chromagan_jax.models import DISCRIMINATORS, GENERATORS
from chromagan_jax.models.patch import PatchGAN
from chromagan_jax.models.pretrained import PRETRAINED
from chromagan_jax.models.unet import UNet

SCHEMA_VERSION = 1  # of config.json; incremented if from_dict cannot read older files

DType = Literal['float32', 'bfloat16']
_Open = Annotated[float, Range('0 < x < 1', lambda x: 0 < x < 1)]
_AboveZero = Annotated[float, Range('above 0', lambda x: x > 0)]
_BelowHalf = Annotated[float, Range('0 <= x < 0.5', lambda x: 0 <= x < 0.5)]
_OneOrMore = Annotated[float, Range('1 or more', lambda x: x >= 1)]
_PartOfOne = Annotated[float, Range('0 < x <= 1', lambda x: 0 < x <= 1)]
_Seed = Annotated[int, Range('0 <= x < 2**32', lambda x: 0 <= x < 2**32)]


@dataclasses.dataclass
class SteeringConfig:
    """Steers `loss.weights.l1` until the fakes have a set share of the real images' chroma.

    L1 pulls uncertain colours towards gray: a lower weight gives more chroma.
    """

    chroma_share: NonNegative = 0.0  # mean chroma of the fakes / of the real images; 0: off
    min_weight: NonNegative = 8.0  # lower limit of the weight
    max_weight: NonNegative = 60.0  # upper limit of the weight
    rate: NonNegative = 0.01  # change of log(weight) per step for a share that is off by 1
    delay: Count = 400  # first steps with a constant weight


@dataclasses.dataclass
class LossConfig:
    """Losses of generator and discriminator."""

    adversarial: str = 'bce'  # bce, lsgan, hinge or wgan: key of losses.ADVERSARIAL
    weights: dict[str, NonNegative] = field(  # generator loss terms: adversarial, losses.TERMS
        default_factory=lambda: {'adversarial': 1.0, 'l1': 100.0}
    )
    huber_delta: _AboveZero = 0.1  # absolute error above which the loss is linear
    label_smoothing: _BelowHalf = 0.1  # the discriminator's real label is 1 - label_smoothing
    gradient_penalty_weight: NonNegative = 0.0  # WGAN-GP; use 10 with 'wgan'
    steering: SteeringConfig = field(default_factory=SteeringConfig)  # of weights.l1


@dataclasses.dataclass
class OptimizerConfig:
    """Adam with the values of pix2pix (Isola et al. 2017)."""

    learning_rate: NonNegative = 2e-4  # peak value
    b1: Decay = 0.5  # decay of the first moment
    b2: Decay = 0.999  # decay of the second moment
    weight_decay: NonNegative = 0.0  # decoupled, for kernels only
    grad_clip_norm: NonNegative = 0.0  # maximum global norm of the gradients; 0: no clipping
    schedule: Literal['constant', 'linear', 'cosine'] = 'constant'  # linear, cosine: decay to 0
    decay_from: Decay = 0.5  # share of the run after which linear and cosine start to decay
    warmup_steps: Count = 0  # steps of linear warm-up from 0 to the peak


@dataclasses.dataclass
class GeneratorOptimizerConfig(OptimizerConfig):
    """Adam with a rate for the pretrained encoder."""

    encoder_lr_ratio: NonNegative = 1.0  # rate of the encoder / learning_rate; 0: frozen
    train_only: str = ''  # the generator's only submodule that is trained; '': all


@dataclasses.dataclass
class PlateauConfig:
    """Reduces both learning rates when an evaluation metric stops improving."""

    metric: str = 'ab_mae'  # a metric that can rank checkpoints
    patience: Count = 0  # evaluations without improvement before a reduction; 0: never
    factor: _Open = 0.1  # multiplies the rates at each reduction
    min_scale: Fraction = 0.001  # lower limit of the accumulated factor


@dataclasses.dataclass
class MeshConfig:
    """How devices share parameters and data."""

    fsdp: Positive = 1  # devices that share one copy of the parameters and optimizer states
    # per_device: batch norm uses the rows of one device, and the gradients are averaged.
    gradients: Literal['global', 'per_device'] = 'global'  # of the whole batch, or per_device
    gradient_dtype: DType = 'float32'  # of the averages of per_device


@dataclasses.dataclass
class DataConfig:
    """The training data."""

    source: str = 'sample'  # a folder, ArrayRecord files, tfds:NAME, or sample
    split: str = 'train'  # of a TFDS data set
    labels: bool = False  # read labels: sub-folder names, or 'label' of the data set
    size: Positive = 64  # px, of the square training crop
    resize_ratio: _OneOrMore = 286 / 256  # short side before the crop / size; that of pix2pix
    max_resize_ratio: NonNegative = 0.0  # above resize_ratio: random between the two ratios; 0: off
    flip: bool = True  # mirror images at random with probability 1/2
    workers: Count = 0  # processes that prepare batches; 0: threads of the main process
    threads: Count = 0  # threads that prepare images, per process; 0: by the number of cores
    prefetch: Positive = 4  # batches prepared ahead, per process
    max_unreadable: Fraction = 0.1  # share of unreadable records above which the run ends


@dataclasses.dataclass
class AugmentConfig:
    """Random changes of the condition inside the train step."""

    lightness_std: NonNegative = 0.0  # of log(e): L* / 100 becomes (L* / 100)**e; 0: off
    blur: Fraction = 0.0  # share of the generator's inputs that are blurred, 3x3 px
    grain: Fraction = 0.0  # share of the generator's inputs that get white noise
    grain_std: NonNegative = 0.08  # largest standard deviation of the noise; condition units


@dataclasses.dataclass
class HintsConfig:
    """Random colour hints for a generator with `hints`, in training."""

    none: Fraction = 0.5  # share of images without a hint; 1: hints are not trained
    mean: Annotated[float, Range('above 1', lambda x: x > 1)] = 8.0  # hints of the other images
    most: Positive = 32  # hints of an image


@dataclasses.dataclass
class EvalConfig:
    """The evaluation data and job."""

    source: str = 'sample'  # as data.source; choose held-out photographs
    split: str = 'validation'  # of a TFDS data set
    size: Count = 0  # px, of the centre crop; 0: data.size
    batch_size: Positive = 8  # images; rounded up to a multiple of the number of devices
    features: str = ''  # file of SqueezeNet weights for the Frechet distance; '': none
    checkpoint: str = 'newest'  # what --mode=eval scores: newest, best or a step
    follow: bool = False  # --mode=eval scores every new checkpoint until training ends
    timeout: Count = 3600  # s without a new checkpoint until `follow` fails
    write_images: bool = False  # --mode=eval writes every image to images_eval/, as PNG


@dataclasses.dataclass
class CheckpointConfig:
    """Retention of checkpoints."""

    max_to_keep: Positive = 2  # number of newest checkpoints in checkpoints/
    best_metric: str = 'ab_mae'  # evaluation metric of the checkpoint in best/


@dataclasses.dataclass
class Config:
    """The config of a run."""

    seed: _Seed = 0  # of initial weights, noise, data order and augmentation
    steps: Positive = 400  # generator updates
    batch_size: Positive = 6  # images per step, over all devices
    grad_accum_steps: Positive = 1  # micro-batches per step: less memory, the same batch size
    discriminator_steps: Positive = 2  # discriminator updates per step
    discriminator_max_accuracy: _PartOfOne = 1.0  # D is not updated above it; 1: always updated
    pretrain_steps: Count = 0  # first steps, which train G without the adversarial loss
    discriminator_warmup_steps: Count = 0  # the next steps, which train D and leave G unchanged
    color_space: Literal['lab', 'rgb'] = 'lab'  # lab: L -> ab; rgb: gray -> RGB
    dtype: DType = 'float32'  # of the computation; parameters and optimizer states are float32
    remat: bool = False  # recompute activations in the backward pass: less memory, more time
    ema_decay: Decay = 0.999  # of the generator's moving average; 0: off, raw weights are used

    generator: Annotated[nn.Module, fields.Registry('generator', GENERATORS)] = field(
        default_factory=lambda: UNet(width=32, dropout=0.0)  # condition -> target
    )
    discriminator: Annotated[nn.Module, fields.Registry('discriminator', DISCRIMINATORS)] = field(
        default_factory=lambda: PatchGAN(width=32)  # condition, target -> logits
    )
    loss: LossConfig = field(default_factory=LossConfig)
    generator_optimizer: GeneratorOptimizerConfig = field(default_factory=GeneratorOptimizerConfig)
    discriminator_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    reduce_lr_on_plateau: PlateauConfig = field(default_factory=PlateauConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    hints: HintsConfig = field(default_factory=HintsConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    stall_timeout: Count = 900  # s without progress until the run ends; 0: never
    log_every: Positive = 20  # steps between lines of metrics.jsonl
    eval_every: Count = 200  # steps between evaluations; 0: never
    sample_every: Count = 200  # steps between sample grids; 0: never
    checkpoint_every: Positive = 200  # steps between checkpoints; the last step is saved too
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    init_from: str = ''  # workdir, or 'released', whose weights initialise a new run
    pretrained: Annotated[dict[str, str], fields.Registry('pretrained', PRETRAINED)] = field(
        default_factory=lambda: dict.fromkeys(PRETRAINED, '')  # weight files by network
    )
    colorize: PostProcess = field(default_factory=PostProcess)


def validate(config: Config) -> None:
    """Checks all fields, as far as possible without data, devices and networks.

    Raises:
        UserError: for the first invalid field.
    """
    fields.check_names(config)
    fields.check_types(config)
    _check_color_space(config)
    _check_unused(config)
    loss, plateau = config.loss, config.reduce_lr_on_plateau
    if plateau.patience and not config.eval_every:
        raise UserError(
            'reduce_lr_on_plateau.patience needs evaluations: set eval_every, or patience to 0.'
        )
    if loss.steering.chroma_share and not loss.weights.get('l1'):
        raise UserError(
            'loss.steering.chroma_share steers loss.weights.l1, which is 0: set that weight, or '
            'chroma_share to 0.'
        )
    if loss.steering.min_weight > loss.steering.max_weight:
        raise UserError(
            f'loss.steering.min_weight {loss.steering.min_weight} is above max_weight '
            f'{loss.steering.max_weight}: lower it.'
        )
    if loss.label_smoothing and loss.adversarial in ('hinge', 'wgan'):
        raise UserError(
            f'loss.adversarial {loss.adversarial!r} has no labels to smooth: '
            'set loss.label_smoothing to 0.'
        )
    if loss.gradient_penalty_weight:
        if getattr(config.discriminator, 'norm', None) == 'batch':
            raise UserError(
                'loss.gradient_penalty_weight needs a discriminator without batch norm: set '
                'discriminator.norm to none, instance or group.'
            )
        if config.dtype != 'float32':
            raise UserError('loss.gradient_penalty_weight needs float32: set dtype to float32.')


def _check_unused(config: Config) -> None:
    """Raises UserError for a value that would have no effect."""
    data, mesh = config.data, config.mesh
    if data.max_resize_ratio and data.max_resize_ratio <= data.resize_ratio:
        raise UserError(
            f'data.max_resize_ratio {data.max_resize_ratio:.3g} is not above data.resize_ratio '
            f'{data.resize_ratio:.3g}: raise it, or set it to 0 for one scale.'
        )
    if mesh.gradient_dtype != 'float32' and mesh.gradients == 'global':
        raise UserError(
            f'mesh.gradient_dtype={mesh.gradient_dtype} is for mesh.gradients=per_device: set that '
            'too, or mesh.gradient_dtype to float32.'
        )
    if config.discriminator_max_accuracy < 1 and config.loss.adversarial == 'wgan':
        raise UserError(
            'loss.adversarial wgan has no accuracy, since its logits have no threshold: set '
            'discriminator_max_accuracy to 1.'
        )


def _check_color_space(config: Config) -> None:
    """Raises UserError for options that are defined for Lab only, in another space."""
    options = {
        'loss.steering.chroma_share': config.loss.steering.chroma_share,
        'augment.lightness_std': config.augment.lightness_std,
        'augment.blur': config.augment.blur,
        'augment.grain': config.augment.grain,
    }
    for name, value in options.items():
        if value and config.color_space != 'lab':
            raise UserError(f'{name} needs color_space lab: set it to 0, or the space to lab.')
