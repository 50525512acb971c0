"""Differentiable conversions between sRGB and CIE Lab in PyTorch, white point D65.

The constants are those of scikit-image's skimage.color. Arrays are NCHW in float32; L* is in
[0, 100], a* and b* are in about [-110, 110], RGB is in [0, 1].
"""

import torch
from torch import Tensor

RGB_TO_XYZ = torch.tensor(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
WHITE = torch.tensor([0.95047, 1.0, 1.08883])
TO_XYZ = (RGB_TO_XYZ / WHITE[:, None]).tolist()  # X / Xn, Y / Yn, Z / Zn
FROM_XYZ = torch.linalg.inv(RGB_TO_XYZ / WHITE[:, None]).tolist()


def matmul_channels(matrix: list[list[float]], x: Tensor) -> Tensor:
    """A 3 x 3 matrix on the channels of (B, 3, H, W), in float32 under autocast too."""
    first, second, third = x[:, :1], x[:, 1:2], x[:, 2:]
    return torch.cat([a * first + b * second + c * third for a, b, c in matrix], 1)


def decode_srgb(rgb: Tensor) -> Tensor:
    """From sRGB to linear RGB; the gradient at 0 is finite."""
    return torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055).clamp_min(1e-8) ** 2.4, rgb / 12.92)


def encode_srgb(linear: Tensor) -> Tensor:
    """From positive linear RGB to sRGB."""
    return torch.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


def inverse_f(f: Tensor) -> Tensor:
    """The inverse of CIE's f: X / Xn of f(X / Xn)."""
    return torch.where(f > 0.206893, f**3, (f - 16 / 116) / 7.787)


def rgb_to_lab(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) -> L* (B, 1, H, W) and ab (B, 2, H, W)."""
    xyz = matmul_channels(TO_XYZ, decode_srgb(rgb))
    f = torch.where(xyz > 0.008856, xyz.clamp_min(1e-8) ** (1 / 3), 7.787 * xyz + 16 / 116)
    fx, fy, fz = f[:, :1], f[:, 1:2], f[:, 2:]
    return 116 * fy - 16, torch.cat([500 * (fx - fy), 200 * (fy - fz)], 1)


def lab_to_rgb(lightness: Tensor, ab: Tensor) -> Tensor:
    """L* (B, 1, H, W) and ab (B, 2, H, W) -> (B, 3, H, W).

    Linear RGB is clamped to [1e-4, 1.1], so that gradients stay finite.
    """
    fy = (lightness + 16) / 116
    f = torch.cat([fy + ab[:, :1] / 500, fy, fy - ab[:, 1:] / 200], 1)
    return encode_srgb(matmul_channels(FROM_XYZ, inverse_f(f)).clamp(1e-4, 1.1))


def gray_rgb(lightness: Tensor) -> Tensor:
    """L* (B, 1, H, W) -> (B, 3, H, W): sRGB gray as EfficientNet-Lite takes it.

    The value is (x - 127) / 128 of x in 0..255.
    """
    linear = inverse_f((lightness + 16) / 116).clamp_min(1e-6)
    return ((encode_srgb(linear) * 255 - 127) / 128).expand(-1, 3, -1, -1)
