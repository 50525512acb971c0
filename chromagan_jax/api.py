"""Colorizes photographs from Python: `chromagan_jax.colorize` and `chromagan_jax.load`."""

import functools
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from chromagan_jax.config.fields import check_types, flatten, unknown_field
from chromagan_jax.config.postprocess import PostProcess
from chromagan_jax.data import decode
from chromagan_jax.data.decode import pillow
from chromagan_jax.errors import UserError
from chromagan_jax.gan.released import Trained
from chromagan_jax.inference import predictor
from chromagan_jax.inference.layout import Predict

File = str | os.PathLike[str]
Photograph = np.ndarray | Image.Image | File
_ONE = (np.ndarray, Image.Image, str, os.PathLike)
Hints = Sequence[Any]  # of one photograph: (x, y, color), or {'x', 'y', 'color'}


class Colorizer:
    """A loaded generator. The network is compiled once for each size.

    Attributes:
        trained: weights, config and step.
    """

    def __init__(self, trained: Trained):
        self.trained = trained
        self._compiled: dict[tuple[Any, ...], Predict] = {}

    @overload
    def colorize(self, images: np.ndarray, **options: Any) -> np.ndarray: ...
    @overload
    def colorize(self, images: Image.Image | File, **options: Any) -> Image.Image: ...
    @overload
    def colorize(self, images: Sequence[np.ndarray], **options: Any) -> list[np.ndarray]: ...
    @overload
    def colorize(
        self, images: Sequence[Image.Image | File], **options: Any
    ) -> list[Image.Image]: ...

    def colorize(
        self,
        images: Photograph | Sequence[Photograph],
        size: int | Sequence[int] | None = None,
        batch_size: int = 1,
        sample: int | None = None,
        hints: Sequence[Any] | None = None,
        **options: Any,
    ) -> Any:
        """Colorizes photographs at their own resolution, and keeps their lightness.

        Args:
            images: one photograph or a sequence of them. An array is sRGB, (H, W), (H, W, 3) or
                (H, W, 4), uint8 or uint16. The colour profile of a PIL image is applied, its EXIF
                orientation is not. A path is read as the command reads it.
            size: side of the square that the network sees, px; the colours of several sizes are
                averaged. By default the size that the weights were evaluated at.
            batch_size: inputs of the network at once.
            sample: number of the noise sample, for a network with noise.
            hints: known colours, for a generator with hints: [(120, 80, '#7a2e2e')], or a list of
                such lists for a sequence of photographs.
            **options: fields of `PostProcess`, such as saturation=1.2; others as in the config of
                the weights.

        Returns:
            For an array (H, W, 3) uint8, (H, W, 4) for RGBA; for a PIL image or a path a PIL image
            in RGB or RGBA; for a sequence a list.

        Raises:
            UserError: for an unknown option, or if the network does not accept the size or hints.
            UnreadableImage: if a file is damaged or no image.
            OSError: if a file cannot be read.
        """
        if isinstance(images, _ONE) or not isinstance(images, Iterable):
            one = self._colorize([images], size, batch_size, sample, hints and [hints], options)
            return one[0]
        return self._colorize(list(images), size, batch_size, sample, hints, options)

    def _colorize(
        self,
        images: Sequence[Photograph],
        size: int | Sequence[int] | None,
        batch_size: int,
        sample: int | None,
        hints: Sequence[Any] | None,
        options: dict[str, Any],
    ) -> list[np.ndarray | Image.Image]:
        arrays = [_pixels(image) for image in images]
        post = self._post(options)
        if sample is None and post.sample_noise:
            sample = 1
        sizes = _sizes(self.trained.size if size is None else size)
        if batch_size < 1:
            raise UserError(f'batch_size must be 1 or more, not {batch_size}.')
        if hints and (not isinstance(hints, Sequence) or len(hints) != len(images)):
            raise UserError(f'hints must hold a list for each of the {len(images)} photographs.')
        predict = self._predict(sizes, batch_size, sample is not None, any(hints or ()))
        results = predictor.colorize_with(
            predict, arrays, max(sizes), batch_size, sample, post, hints
        )
        return [
            pixels if isinstance(image, np.ndarray) else Image.fromarray(pixels)
            for image, pixels in zip(images, results, strict=True)
        ]

    def _post(self, options: dict[str, Any]) -> PostProcess:
        values = flatten(self.trained.config.colorize)
        for name in options:
            if name not in values:
                raise unknown_field(self.trained.config.colorize, name)
        post = PostProcess(**{**values, **options})
        check_types(post)
        return post

    def _predict(self, *key: Any) -> Predict:
        if key not in self._compiled:
            network = self.trained.generator, self.trained.variables
            self._compiled[key] = predictor.make_predict(*network, *key)
        return self._compiled[key]


def load(workdir: File | None = None, checkpoint: str = 'newest') -> Colorizer:
    """Loads the generator of a run, or the released one without a `workdir`.

    Args:
        workdir: of the run.
        checkpoint: of the run: newest, best, or the number of a step.

    Raises:
        UserError: if there is no such run or checkpoint, or the released weights are damaged.
    """
    name = None if workdir is None else os.fspath(workdir)
    return Colorizer(predictor.load(name, checkpoint))


@functools.cache
def released() -> Colorizer:
    """The released generator, loaded once."""
    return load()


@overload
def colorize(images: np.ndarray, **options: Any) -> np.ndarray: ...
@overload
def colorize(images: Image.Image | File, **options: Any) -> Image.Image: ...
@overload
def colorize(images: Sequence[np.ndarray], **options: Any) -> list[np.ndarray]: ...
@overload
def colorize(images: Sequence[Image.Image | File], **options: Any) -> list[Image.Image]: ...


def colorize(images: Any, **options: Any) -> Any:
    """Colorizes photographs with the released weights; see `Colorizer.colorize`."""
    return released().colorize(images, **options)


def _sizes(size: Any) -> tuple[int, ...]:
    sizes = tuple(size) if isinstance(size, Sequence) else (size,)
    if not sizes or not all(isinstance(side, int | np.integer) and side > 0 for side in sizes):
        raise UserError(f'size must be px, as 256 or (192, 256), not {size!r}.')
    return tuple(map(int, sizes))


def _is_deep(image: Image.Image) -> bool:
    """Whether a gray image has values up to 65535, or up to 1 in floats, instead of 255."""
    if image.mode not in ('I', 'F'):
        return image.mode[0] == 'I'
    largest = np.asarray(image).max()
    return bool(largest > 255 if image.mode == 'I' else largest <= 1)


def _pixels(image: Photograph) -> np.ndarray:
    """The pixels of a photograph, as `predictor.colorize` takes them."""
    if isinstance(image, np.ndarray):
        color = image.ndim == 3 and image.shape[2] in (3, 4)
        known = image.dtype in (np.uint8, np.uint16)
        if (image.ndim != 2 and not color) or not known or not image.size:
            raise UserError(
                f'An array must be (H, W), (H, W, 3) or (H, W, 4) of uint8 or uint16, not '
                f'{image.shape} of {image.dtype}: convert it.'
            )
        return image
    if isinstance(image, str | os.PathLike):
        return decode.read(Path(image)).pixels
    if not isinstance(image, Image.Image):
        raise UserError(
            f'{type(image).__name__} is no photograph: give a path, a PIL image or an array.'
        )
    if _is_deep(image):  # Pillow's conversion clips at 255
        deep = Image.fromarray(pillow.deep_gray(image)[0])
        deep.info, image = image.info, deep
    if image.mode not in ('CMYK', 'I;16'):
        mode = 'L' if image.mode in ('1', 'L', 'LA', 'La') else 'RGB'  # gray has a gray profile
        image = image.convert(f'{mode}A' if image.has_transparency_data else mode)
    file = io.BytesIO()  # the decoder knows colour profiles
    plain = image.copy()
    plain.info = {}
    plain.save(file, 'TIFF', icc_profile=image.info.get('icc_profile'))
    return decode.read(file.getvalue()).pixels
