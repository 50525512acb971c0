"""The config of a run: every field with its type, default, range and a comment.

The defaults are those of configs/base.py. `config.steps = 100` sets a field;
`config.generator = UNet(width=64)` chooses a network, whose options are documented at its class.
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

SCHEMA_VERSION = 1  # of config.json; counts changes that from_dict cannot bridge

DType = Literal['float32', 'bfloat16']
_Open = Annotated[float, Range('0 < x < 1', lambda x: 0 < x < 1)]


@dataclasses.dataclass
class LossConfig:
    """What the two networks minimise."""

    adversarial: Literal['bce', 'lsgan', 'hinge', 'wgan'] = 'bce'  # key of losses.ADVERSARIAL
    weights: dict[str, NonNegative] = field(  # of the generator's terms, keys of losses.TERMS
        default_factory=lambda: {'adversarial': 1.0, 'l1': 100.0}
    )
    huber_delta: Annotated[float, Range('above 0', lambda x: x > 0)] = (
        0.1  # error where it is linear
    )
    label_smoothing: Annotated[float, Range('0 <= x < 0.5', lambda x: 0 <= x < 0.5)] = (
        0.1  # the discriminator's real labels are 1 - this
    )
    gradient_penalty_weight: NonNegative = 0.0  # of WGAN-GP's penalty; 10 with 'wgan'


@dataclasses.dataclass
class OptimizerConfig:
    """Adam with pix2pix's values."""

    learning_rate: NonNegative = 2e-4  # peak
    b1: Decay = 0.5  # decay of the first moment
    b2: Decay = 0.999  # decay of the second moment
    weight_decay: NonNegative = 0.0  # decoupled, of kernels only
    grad_clip_norm: NonNegative = 0.0  # global norm that gradients are clipped to; 0: no clipping
    schedule: Literal['constant', 'linear', 'cosine'] = 'constant'  # linear and cosine fall to 0
    decay_from: Decay = 0.5  # share of the run after which linear and cosine begin to fall
    warmup_steps: Count = 0  # steps from 0 to the full rate


@dataclasses.dataclass
class PlateauConfig:
    """Both learning rates fall when an evaluation metric stops improving."""

    metric: str = 'ab_mae'  # a metric that can rank checkpoints
    patience: Count = 0  # evaluations in a row without a better value before they fall; 0: never
    factor: _Open = 0.1  # what they are multiplied by
    min_scale: Fraction = 0.001  # share of the rates below which they do not fall


@dataclasses.dataclass
class MeshConfig:
    """How devices share the work."""

    fsdp: Positive = 1  # devices that share one copy of the parameters and optimizer states


@dataclasses.dataclass
class DataConfig:
    """What the networks are trained on."""

    source: str = 'sample'  # a folder, ArrayRecord files, tfds:NAME, or sample
    split: str = 'train'  # of a TFDS data set
    labels: bool = False  # read labels: sub-folder names, or the data set's 'label'
    size: Positive = 64  # px, of the square training crop
    resize_ratio: Annotated[float, Range('1 or more', lambda x: x >= 1)] = (
        286 / 256  # short side before the crop, over the crop (pix2pix's)
    )
    flip: bool = True  # mirror every other photograph
    workers: Count = 0  # processes that prepare batches; 0: threads of the main process
    threads: Positive = 2  # threads that prepare photographs, in each process
    prefetch: Positive = 4  # batches prepared ahead, in each of these processes
    max_unreadable: Fraction = 0.1  # share of unreadable records above which the run ends


@dataclasses.dataclass
class EvalConfig:
    """What the generator is scored on."""

    source: str = 'sample'  # as data.source; choose held-out photographs
    split: str = 'validation'  # of a TFDS data set
    size: Count = 0  # px, of the centre crop; 0: data.size
    batch_size: Positive = 8  # photographs at a time; rounded up to a multiple of the devices
    features: str = ''  # file of SqueezeNet's weights, for the Frechet distance; '': none
    checkpoint: str = 'newest'  # what --mode=eval scores: newest, best or a step
    follow: bool = False  # --mode=eval scores every new checkpoint until training ends
    timeout: Count = 3600  # s without a new checkpoint after which following gives up


@dataclasses.dataclass
class CheckpointConfig:
    """Which states are kept."""

    max_to_keep: Positive = 2  # newest checkpoints
    best_metric: str = 'ab_mae'  # the best one by this evaluation metric is kept in best/


@dataclasses.dataclass
class Config:
    """A run."""

    seed: Annotated[int, Range('0 <= x < 2**32', lambda x: 0 <= x < 2**32)] = (
        0  # of the initial weights, the noise, the order of the data and its augmentation
    )
    steps: Positive = 400  # generator updates
    batch_size: Positive = 6  # photographs a step, over all devices
    grad_accum_steps: Positive = 1  # micro-batches a step: less memory, the same effective batch
    discriminator_steps: Positive = 2  # discriminator updates a step
    discriminator_max_accuracy: Annotated[float, Range('0 < x <= 1', lambda x: 0 < x <= 1)] = (
        1.0  # accuracy of the last step above which D is not updated; 1: always updated
    )
    pretrain_steps: Count = 0  # first steps, in which G learns without the adversarial loss
    color_space: Literal['lab', 'rgb'] = 'lab'  # lab: L -> ab; rgb: gray -> RGB
    dtype: DType = 'float32'  # of the computation
    param_dtype: DType = 'float32'  # of the parameters and the optimizer state
    remat: bool = False  # recompute activations in the backward pass: less memory, more time
    ema_decay: Decay = 0.999  # of the generator's moving average; 0: none, raw weights are used

    generator: Annotated[nn.Module, fields.Registry('generator', GENERATORS)] = field(
        default_factory=lambda: UNet(width=32, dropout=0.0)  # condition -> target
    )
    discriminator: Annotated[nn.Module, fields.Registry('discriminator', DISCRIMINATORS)] = field(
        default_factory=lambda: PatchGAN(width=32)  # condition, target -> logits
    )
    loss: LossConfig = field(default_factory=LossConfig)
    generator_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    discriminator_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    reduce_lr_on_plateau: PlateauConfig = field(default_factory=PlateauConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    data: DataConfig = field(default_factory=DataConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    stall_timeout: Count = 900  # s without progress after which a run ends; 0: never
    log_every: Positive = 20  # steps between lines of metrics.jsonl
    eval_every: Count = 200  # steps between evaluations; 0: never
    sample_every: Count = 200  # steps between sample grids; 0: never
    checkpoint_every: Positive = 200  # steps between checkpoints; the last step is saved too
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    init_from: str = ''  # a workdir whose newest weights a new run starts from
    pretrained: Annotated[dict[str, str], fields.Registry('pretrained', PRETRAINED)] = field(
        default_factory=lambda: dict.fromkeys(PRETRAINED, '')  # files of weights, by network
    )
    colorize: PostProcess = field(default_factory=PostProcess)


def validate(config: Config) -> None:
    """Checks every field that can be judged without data, devices or networks.

    Raises:
        UserError: naming the first field that is impossible.
    """
    fields.check_types(config)
    loss, plateau = config.loss, config.reduce_lr_on_plateau
    if plateau.patience and not config.eval_every:
        raise UserError(
            'reduce_lr_on_plateau.patience counts evaluations: set eval_every, or it to 0.'
        )
    if loss.label_smoothing and loss.adversarial in ('hinge', 'wgan'):
        raise UserError(
            f'loss.adversarial {loss.adversarial!r} has no labels to smooth: '
            'set loss.label_smoothing to 0.'
        )
    if loss.gradient_penalty_weight:
        if getattr(config.discriminator, 'norm', None) == 'batch':
            raise UserError(
                'loss.gradient_penalty_weight needs a discriminator that judges each image alone: '
                'set discriminator.norm to none, instance or group.'
            )
        if config.dtype != 'float32' or config.param_dtype != 'float32':
            raise UserError(
                'loss.gradient_penalty_weight needs float32: set dtype and param_dtype to it.'
            )
