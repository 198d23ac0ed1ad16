"""Converts images that TensorFlow cannot decode to PNG, without loss: TIFF, HEIC, AVIF, DICOM, JPEG 2000, PNM.

So are a BMP with a palette or a compression, an animated WebP, and a GIF or a PNG with a transparent colour.

contents = to_png(contents, max_pixels)     # when a source is stored, never during training
"""

from __future__ import annotations

import importlib.util
import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from evenkeel.pipeline.images.file_type import SNIFFED_BYTES, describe, file_type
from evenkeel.pipeline.images.header import COLOR_KEY, read_header

DECODED_TYPES = ("", "JPEG", "PNG", "BMP", "GIF", "WebP")


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
    image = _read_dicom(contents, max_pixels) if kind == "DICOM" else _read_with_pillow(contents, kind, max_pixels)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)  # fast: the file is read once more to be indexed
    return file.getvalue()


def _read_with_pillow(contents: bytes, kind: str, max_pixels: int) -> Image.Image:
    if kind == "HEIC":
        import pillow_heif

        pillow_heif.register_heif_opener()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here, and of damaged metadata
            opened = Image.open(io.BytesIO(contents))
            _check_pixels(*opened.size, max_pixels)
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        detail = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise ValueError(f"cannot be decoded as an image: it is {describe(contents)}{detail}") from error
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
    if importlib.util.find_spec("pydicom") is None:
        raise ValueError(f"cannot be decoded as an image: it is {describe(contents)}")
    import pydicom
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(io.BytesIO(contents))
            size = int(dataset.Columns), int(dataset.Rows)
            frame = pixel_array(dataset, index=0) if np.prod(size) <= max_pixels else np.zeros((1, 1))
            values = frame if frame.ndim == 3 else apply_modality_lut(frame, dataset)
            limits = None
            if frame.ndim == 2 and "WindowCenter" in dataset:
                # The lowest and the highest value that the window lets through, whether or not the image reaches them.
                limits = apply_voi_lut(np.array([-1e9, 1e9]), dataset)
            if frame.ndim == 2:
                values = apply_voi_lut(values, dataset)
            photometric = dataset.get("PhotometricInterpretation", "")
            inverted, bits = photometric == "MONOCHROME1", int(dataset.BitsStored)
            if photometric == "PALETTE COLOR" and np.prod(size) <= max_pixels:
                values = apply_color_lut(frame, dataset)
                bits = 8 * values.dtype.itemsize
    except Exception as error:  # pydicom raises whatever the damaged part leads to
        raise ValueError(f"cannot be decoded as an image: it is {describe(contents)} ({error})") from error
    _check_pixels(*size, max_pixels)
    if values.ndim == 3:  # colour, which pixel_array has converted to RGB
        return Image.fromarray((values >> max(bits - 8, 0)).astype(np.uint8))
    return _scale_to_16_bits(np.asarray(values, np.float64), limits, inverted)


def _scale_to_16_bits(values: np.ndarray, limits: np.ndarray | None = None, inverted: bool = False) -> Image.Image:
    """Gray pixels, the lower limit as 0 and the upper as 65,535; by default the limits are those of the values."""
    finite = values[np.isfinite(values)]
    low, high = limits if limits is not None else (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    shares = np.clip((np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-12), 0, 1)
    return Image.fromarray(np.round((1 - shares if inverted else shares) * 65_535).astype(np.uint16))


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ValueError(
            f"{width} x {height} pixels are more than data.max_pixels ({max_pixels}): raise this limit to decode the"
            " image"
        )
