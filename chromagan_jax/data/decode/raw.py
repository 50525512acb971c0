"""Reading of the raw files of cameras by rawpy (LibRaw)."""

import io

from chromagan_jax.data.decode.formats import BY_NAME, RAW, install_hint, is_available
from chromagan_jax.data.decode.frame import DAMAGE, Frame, UnreadableImage, check_size

_SRGB = (2.4, 12.92)  # LibRaw's notation of the curve: power, slope of the straight part


def read(data: bytes, max_pixels: int) -> Frame:
    """Develops the values of the sensor, never the preview, with the white balance of the camera.

    Raises:
        UnreadableImage: rawpy is not installed, or LibRaw does not know the camera.
    """
    kind = BY_NAME[RAW]
    if not is_available(kind):
        raise UnreadableImage(
            f'{RAW} is not read without an extra: {install_hint(kind)}, or save it as TIFF'
        )
    import rawpy

    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            check_size(raw.sizes.width, raw.sizes.height, max_pixels)
            rgb = raw.postprocess(use_camera_wb=True, output_bps=16, gamma=_SRGB)
    except UnreadableImage:
        raise
    except (*DAMAGE, rawpy.LibRawError) as error:
        words = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else error
        raise UnreadableImage(f'{RAW} that is not read ({words}): save it as TIFF') from error
    return Frame(rgb, 'rgb')
