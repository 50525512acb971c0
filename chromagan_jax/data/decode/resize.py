"""Resizing and cropping of (H, W, 3) uint8."""

import cv2
import numpy as np


def resize_short(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes (H, W, 3) uint8 to a short side of `side` px and the same aspect ratio."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    return resize(image, max(side, round(height * scale)), max(side, round(width * scale)))


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes (H, W, 3) uint8 to (height, width, 3): area filter to shrink, else cubic."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    filtering = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return cv2.resize(image, (width, height), interpolation=filtering)


def crop_square(image: np.ndarray, side: int, y: float = 0.5, x: float = 0.5) -> np.ndarray:
    """A (side, side, 3) view at the relative position (y, x), each in [0, 1); 0.5 is the centre.

    Uniform y and x make every position of the square equally likely.
    """
    height, width = image.shape[:2]
    top, left = int(y * (height - side + 1)), int(x * (width - side + 1))
    return image[top : top + side, left : left + side]
