"""The quick recipe: U-Net and PatchGAN on six photographs that come inside scikit-image.

    python -m chromagan_jax.main --config=configs/base.py

It proves an installation, not a method: six photographs are memorised, not learned from. Measured
on two cores of a Xeon: 41 images/s, under two minutes in all, and colours one can see (PSNR
30.1 dB on the training photographs, gray 21.4; colorfulness 47 of 51).

Every other config calls `get_config` here and changes some of its fields; all fields are declared
here. `--config=configs/base.py:tiny` is the same run with networks for tests, over in seconds.
"""

from ml_collections import ConfigDict

from chromagan_jax.errors import UserError


def get_config(arg: str = '') -> ConfigDict:
    """The config; `arg` is '' or 'tiny'."""
    if arg not in ('', 'tiny'):
        raise UserError(f'configs/base.py takes the argument tiny or none, not {arg!r}.')
    config = ConfigDict()
    config.seed = 0  # of the initial weights, the noise, the order of the data and its augmentation
    config.steps = 400  # generator updates
    config.batch_size = 6  # photographs a step, over all devices
    config.accumulate = 1  # micro-batches a step: less memory, the same effective batch
    config.discriminator_steps = 2  # discriminator updates a step
    config.discriminator_max_accuracy = 1.0  # it rests while it was right more often; 1: never
    config.pretrain_steps = 0  # first steps, in which the generator learns without adversary
    config.color_space = 'lab'  # lab: L -> ab; rgb: gray -> RGB
    config.dtype = 'float32'  # of the computation: float32 or bfloat16
    config.param_dtype = 'float32'  # of the parameters and the optimizer state
    config.remat = False  # recompute activations in the backward pass: less memory, more time
    config.ema = 0.999  # decay of the generator's moving average; 0: none, the raw weights count

    config.generator = ConfigDict()
    config.generator.name = 'unet'  # a key of models.GENERATORS
    config.generator.width = 32  # features of the first level
    config.generator.depth = 0  # halvings; 0: down to 1x1
    config.generator.context = 'none'  # none, or squeezenet: a classifier beside the way down
    config.generator.chroma_stride = 1  # px of the picture for one of colour, a side: 1, 2, 4, ...
    config.generator.norm = 'batch'  # batch, instance, group or none
    config.generator.dropout = 0.0  # rate, in the three levels after the innermost
    config.generator.test_mode = 'running'  # batch norm at test time: running, or batch (its own)

    config.discriminator = ConfigDict()
    config.discriminator.name = 'patch'  # a key of models.DISCRIMINATORS
    config.discriminator.width = 32  # features of the first convolution
    config.discriminator.layers = 3  # convolutions of stride 2: 3 is the 70 x 70 px patch
    config.discriminator.chroma_stride = 1  # the same, of the colours that it judges
    config.discriminator.norm = 'batch'  # batch, instance, group or none
    config.discriminator.spectral_norm = False  # divide each kernel by its largest singular value
    config.discriminator.conditional = True  # sees the gray image beside the colours

    config.objective = ConfigDict()
    config.objective.adversarial = 'bce'  # a key of losses.ADVERSARIAL
    config.objective.adversarial_weight = 1.0  # of the generator's adversarial loss
    config.objective.l1 = 100.0  # weight of the mean absolute error of the target
    config.objective.mse = 0.0  # weight of its mean squared error
    config.objective.huber = 0.0  # weight of its mean Huber loss
    config.objective.huber_delta = 0.1  # error from which on the Huber loss grows linearly
    config.objective.classes = 0.0  # weight of the class head's error; needs vgg16 or data.labels
    config.objective.label_smoothing = 0.1  # the discriminator's real labels are 1 - this
    config.objective.gradient_penalty = 0.0  # weight of WGAN-GP's penalty; 10 with 'wgan'

    config.generator_optimizer = adam()
    config.discriminator_optimizer = adam()

    config.plateau = ConfigDict()  # both learning rates fall when an evaluation metric does not
    config.plateau.metric = 'ab_mae'  # what is watched; as checkpoint.best_metric
    config.plateau.patience = 0  # evaluations without a better value before they fall; 0: never
    config.plateau.factor = 0.1  # what they are multiplied by
    config.plateau.min_scale = 0.001  # share of the rates below which they do not fall

    config.mesh = ConfigDict()
    config.mesh.fsdp = 1  # devices that share one copy of the parameters and optimizer states

    config.data = ConfigDict()
    config.data.source = 'sample'  # a folder, array_record files, tfds:NAME, or sample
    config.data.split = 'train'  # of a TFDS data set
    config.data.labels = False  # read labels: sub-folder names, or the data set's 'label'
    config.data.size = 64  # px, of the square training crop
    config.data.load_ratio = 286 / 256  # short side before the crop, over the crop (as pix2pix)
    config.data.flip = True  # mirror every other photograph
    config.data.workers = 0  # processes that prepare batches; 0: threads of the main process
    config.data.threads = 2  # threads that prepare photographs, in each process
    config.data.prefetch = 4  # batches prepared ahead, in each of these processes
    config.data.max_unreadable = 0.1  # share of unreadable records above which the run ends

    config.eval = ConfigDict()
    config.eval.source = 'sample'  # as data.source; held out, if its figures shall mean anything
    config.eval.split = 'validation'  # of a TFDS data set
    config.eval.size = 0  # px, of the centre crop; 0: data.size
    config.eval.batch_size = 8  # photographs at a time; rounded up to a multiple of the devices
    config.eval.features = ''  # file of SqueezeNet's weights, for the Frechet distance; '': none
    config.eval.checkpoint = 'newest'  # what --mode=eval scores: newest, best or a step
    config.eval.follow = False  # --mode=eval scores every new checkpoint until training ends
    config.eval.patience = 3600  # s without a new checkpoint after which following gives up

    config.stall_timeout = 900  # s without a sign of life after which a run ends; 0: never
    config.log_every = 20  # steps between lines of metrics.jsonl
    config.eval_every = 200  # steps between evaluations; 0: never
    config.sample_every = 200  # steps between sample grids; 0: never
    config.checkpoint_every = 200  # steps between checkpoints; the last step is saved too

    config.checkpoint = ConfigDict()
    config.checkpoint.max_to_keep = 2  # newest checkpoints kept
    config.checkpoint.best_metric = 'ab_mae'  # lower is better; the best is kept apart in best/
    config.init_from = ''  # a workdir whose newest weights a new run starts from
    config.squeezenet = ''  # file of SqueezeNet's weights, for a generator with it for a context
    config.efficientnet_lite = ''  # file of its weights, for the encoder of a lite_unet
    config.vgg16 = ''  # file of VGG16's weights, for a generator that is built on them (chromagan)

    config.colorize = ConfigDict()  # what chromagan_jax.colorize does beside; flags override it
    config.colorize.sample_noise = False  # keep the network's noise on: the result is a sample
    config.colorize.saturation = 1.0  # gain of the chroma; 1: as the network has it
    config.colorize.white_balance = 'none'  # none, gray_world or percentile
    config.colorize.white_balance_strength = 1.0  # share of that correction
    config.colorize.contrast = 0.0  # share of CLAHE's lightness in the result; 0: none
    config.colorize.clahe_clip = 2.0  # CLAHE's clip limit
    config.colorize.clahe_tiles = 8  # CLAHE's tiles a side
    config.colorize.denoise_before = 0.0  # strength, in 8-bit steps, on the gray photograph
    config.colorize.denoise_after = 0.0  # strength, in 8-bit steps, on the colours
    config.colorize.denoise_method = 'nlm'  # of the colours: nlm (non-local means) or bilateral

    if arg == 'tiny':
        config.steps, config.batch_size, config.eval.batch_size = 4, 8, 8
        config.generator.width = config.discriminator.width = 4
        config.data.size = 32
        config.log_every = 1
        config.eval_every = config.sample_every = config.checkpoint_every = 2
    return config


def adam(learning_rate: float = 2e-4) -> ConfigDict:
    """Fields of an Adam optimizer, with pix2pix's values."""
    config = ConfigDict()
    config.learning_rate = learning_rate  # at its height
    config.b1 = 0.5  # decay of the first moment
    config.b2 = 0.999  # decay of the second moment
    config.weight_decay = 0.0  # decoupled, of kernels only
    config.clip = 0.0  # global norm that gradients are clipped to; 0: no clipping
    config.schedule = 'constant'  # constant, linear (to 0) or cosine (to 0)
    config.decay_from = 0.5  # share of the run after which linear and cosine begin to fall
    config.warmup_steps = 0  # steps from 0 to the full rate
    return config
