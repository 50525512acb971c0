"""The two discriminators of the colorizer in PyTorch; arrays are NCHW."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from tools.torch_twin.networks import Lite

MIXED_WIDTHS = (64, 128, 256, 256)  # at strides 4, 8, 16, 32
HEAD_WIDTH = 128


class Projected(nn.Module):
    """The projected discriminator of Sauer et al. 2021, https://arxiv.org/abs/2111.01007.

    Frozen features of RGB are mixed across channels (`mix`) and across scales (`fuse`) by fixed
    random convolutions. One head judges each scale; only the heads are trained.
    """

    def __init__(self, encoder: Lite) -> None:
        super().__init__()
        self.features = encoder.requires_grad_(False)
        self.mix = nn.ModuleList(
            nn.Conv2d(channels, width, 1)
            for channels, width in zip(encoder.channels[1:], MIXED_WIDTHS, strict=True)
        )
        self.fuse = nn.ModuleList(
            nn.Conv2d(coarse, fine, 3, 1, 1) for fine, coarse in pairwise(MIXED_WIDTHS)
        )
        for conv in [*self.mix, *self.fuse]:
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)
            conv.requires_grad_(False)
        self.heads = nn.ModuleList(
            head(width, halvings=3 - scale) for scale, width in enumerate(MIXED_WIDTHS)
        )

    def frozen(self, rgb: Tensor) -> list[Tensor]:
        """(B, 3, H, W) in [0, 1] -> four mixed maps at strides 4, 8, 16, 32."""
        maps = self.features((rgb * 255 - 127) / 128)[1:]
        maps = [mix(features) for mix, features in zip(self.mix, maps, strict=True)]
        fused = [maps[3]]
        for scale in (2, 1, 0):
            up = resize(fused[0], maps[scale])
            fused.insert(0, (maps[scale] + self.fuse[scale](up)) * 0.7071)
        return fused

    def judge(self, fused: Sequence[Tensor]) -> list[Tensor]:
        """The four maps of `frozen` -> logits (B, 1, h, w) of each, real above fake."""
        return [head(features) for head, features in zip(self.heads, fused, strict=True)]


def head(inputs: int, halvings: int) -> nn.Sequential:
    """Stride-2 convolutions, `halvings` of them, then one logit for each position."""
    layers: list[nn.Module] = []
    for _ in range(halvings):
        layers += [spectral_norm(nn.Conv2d(inputs, HEAD_WIDTH, 4, 2, 1)), nn.LeakyReLU(0.2)]
        inputs = HEAD_WIDTH
    layers += [spectral_norm(nn.Conv2d(inputs, HEAD_WIDTH, 3, 1, 1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(HEAD_WIDTH, 1, 3, 1, 1)))


def patch_gan(width: int = 64) -> nn.Sequential:
    """The PatchGAN of Isola et al. 2017, https://arxiv.org/abs/1611.07004, with spectral norms.

    (B, 3, H, W), L and ab scaled to [-1, 1] -> logits (B, 1, H / 4 - 2, W / 4 - 2).
    """
    layers: list[nn.Module] = []
    inputs = 3
    for outputs, stride in ((width, 2), (2 * width, 2), (4 * width, 1)):
        layers += [spectral_norm(nn.Conv2d(inputs, outputs, 4, stride, 1)), nn.LeakyReLU(0.2)]
        inputs = outputs
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(inputs, 1, 4, 1, 1)))


def resize(x: Tensor, like: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, H, W), the size of `like`, bilinear."""
    return functional.interpolate(x, size=like.shape[2:], mode='bilinear', align_corners=False)
