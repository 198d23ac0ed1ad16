"""Converts images that TensorFlow cannot decode to PNG, without loss: TIFF, HEIC, AVIF, DICOM, JPEG 2000, PNM.

So are a BMP with a palette or a compression, an animated WebP, and a GIF or a PNG with a transparent colour.

contents = to_png(contents, max_pixels)     # when a source is stored, never during training
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from evenkeel.pipeline.images.file_type import SNIFFED_BYTES, describe, file_type
from evenkeel.pipeline.images.header import COLOR_KEY, read_header
from evenkeel.pipeline.system.printable import printable

DECODED_TYPES = ("", "JPEG", "PNG", "BMP", "GIF", "WebP")


class _TooManyPixelsError(ValueError):
    """An image has more pixels than may be decoded."""


def needs_conversion(contents: bytes) -> bool:
    """Whether the file is an image that Pillow or pydicom can decode and TensorFlow cannot."""
    kind = file_type(contents[:SNIFFED_BYTES])
    if kind not in DECODED_TYPES:
        return True
    header = read_header(contents) if kind in ("PNG", "BMP", "GIF", "WebP") else None
    return header is not None and bool(header.refusal) and (kind != "PNG" or header.refusal == COLOR_KEY)


def to_png(contents: bytes, max_pixels: int) -> bytes:
    """A PNG with the pixels of the first frame, upright by its EXIF orientation; 16 bits of gray stay 16 bits.

    Raises:
      ValueError: the image cannot be decoded, has more than `max_pixels` pixels, or needs a package that is missing.
    """
    kind = file_type(contents[:SNIFFED_BYTES])
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here, and of damaged metadata
            image = (
                _read_dicom(contents, max_pixels) if kind == "DICOM" else _read_with_pillow(contents, kind, max_pixels)
            )
            image.save(file, "PNG", compress_level=1)  # fast: the file is read once more to be indexed
    except _TooManyPixelsError:
        raise
    except Image.DecompressionBombError as error:
        raise ValueError(f"{kind}: {error}: scale it down") from error
    except Exception as error:  # libraries raise whatever a damaged part leads to, with a text of any characters
        told = not isinstance(error, (UnidentifiedImageError, ModuleNotFoundError))
        detail = f" ({printable(' '.join(str(error).split()))})" if told else ""
        raise ValueError(f"cannot be decoded as an image: it is {describe(contents)}{detail}") from error
    return file.getvalue()


def _read_with_pillow(contents: bytes, kind: str, max_pixels: int) -> Image.Image:
    if kind == "HEIC":
        import pillow_heif

        pillow_heif.register_heif_opener()
    opened = Image.open(io.BytesIO(contents))
    _check_pixels(*opened.size, max_pixels)
    opened.load()
    image = ImageOps.exif_transpose(opened)
    if image.mode in ("I;16", "I;16B", "I;16L") or (image.mode == "I" and kind == "PNM"):
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode in ("I", "F"):
        return _scale_to_16_bits(np.asarray(image, np.float64))
    has_alpha = "transparency" in image.info or image.mode in ("PA", "La", "RGBa")
    if image.mode in ("1", "L", "LA", "RGB", "RGBA") and not has_alpha:
        return image
    return image.convert("RGBA" if has_alpha else "RGB")


def _read_dicom(contents: bytes, max_pixels: int) -> Image.Image:
    """The first frame as a viewer shows it: rescale slope and intercept, the window, MONOCHROME1 inverted.

    DICOM PS3.3, C.11.1 and C.11.2.
    """
    import pydicom
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

    dataset = pydicom.dcmread(io.BytesIO(contents))
    _check_pixels(int(dataset.Columns), int(dataset.Rows), max_pixels)
    values, bits = pixel_array(dataset, index=0), int(dataset.BitsStored)
    photometric = dataset.get("PhotometricInterpretation", "")
    if photometric == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
        bits = 8 * values.dtype.itemsize
    if values.ndim == 3:  # colour, which pixel_array has converted to RGB
        return Image.fromarray((values >> max(bits - 8, 0)).astype(np.uint8))
    limits = None
    if "WindowCenter" in dataset:
        # The lowest and the highest value that the window lets through, whether or not the image reaches them.
        limits = apply_voi_lut(np.array([-1e9, 1e9]), dataset)
    values = apply_voi_lut(apply_modality_lut(values, dataset), dataset)
    return _scale_to_16_bits(np.asarray(values, np.float64), limits, photometric == "MONOCHROME1")


def _scale_to_16_bits(values: np.ndarray, limits: np.ndarray | None = None, inverted: bool = False) -> Image.Image:
    """Gray pixels, the lower limit as 0 and the upper as 65,535; by default the limits are those of the values."""
    finite = values[np.isfinite(values)]
    low, high = limits if limits is not None else (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    shares = np.clip((np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-12), 0, 1)
    return Image.fromarray(np.round((1 - shares if inverted else shares) * 65_535).astype(np.uint16))


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _TooManyPixelsError(
            f"{width} x {height} pixels are more than data.max_pixels ({max_pixels}): raise this limit to decode the"
            " image"
        )
