"""Files that TensorFlow cannot decode become PNGs with the pixels that the format's own library reads."""

from __future__ import annotations

import io
import pathlib
from typing import Any

import numpy as np
import pillow_heif
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.dataset import load_dataset
from evenkeel.pipeline.images.convert import needs_conversion, to_png

LIMIT = 100_000_000
RNG = np.random.default_rng(0)
PIXELS = np.kron(RNG.integers(0, 256, (6, 8, 3)), np.ones((5, 5, 1))).astype(np.uint8)


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def decode_png(contents: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(contents)))


def dicom(values: np.ndarray, **changes: Any) -> bytes:
    """A DICOM file of 16-bit gray values, or of frames of them."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = ExplicitVRLittleEndian, generate_uid()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.Rows, dataset.Columns = values.shape[-2:]
    dataset.NumberOfFrames = len(values) if values.ndim == 3 else 1
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 16, 12, 11
    dataset.PixelRepresentation, dataset.PhotometricInterpretation = 0, "MONOCHROME2"
    for name, value in changes.items():
        setattr(dataset, name, value)
    dataset.PixelData = values.astype(np.uint16).tobytes()
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset)
    return file.getvalue()


@pytest.mark.parametrize(
    ("file_format", "options"), [("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("AVIF", {}), ("BMP", {})]
)
def test_the_pixels_are_those_of_pillow(file_format: str, options: dict[str, Any]) -> None:
    image = Image.fromarray(PIXELS)
    if file_format == "BMP":  # with a palette, which TensorFlow takes for gray levels
        image = image.convert("P")
    contents = encode(image, file_format, **options)
    assert needs_conversion(contents)
    expected = np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))
    np.testing.assert_array_equal(decode_png(to_png(contents, LIMIT)), expected)


def test_heic_is_read() -> None:
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(PIXELS)).save(file, quality=95)
    contents = file.getvalue()
    assert needs_conversion(contents)
    expected = np.asarray(pillow_heif.read_heif(io.BytesIO(contents)))[..., :3]
    np.testing.assert_array_equal(decode_png(to_png(contents, LIMIT)), expected)


def test_an_animated_webp_becomes_its_first_frame() -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "blue")]
    contents = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert needs_conversion(contents)
    np.testing.assert_array_equal(decode_png(to_png(contents, LIMIT)), np.asarray(frames[0]))


def test_sixteen_bits_stay_and_exif_is_applied() -> None:
    values = RNG.integers(0, 65_536, (6, 9)).astype(np.uint16)
    np.testing.assert_array_equal(decode_png(to_png(encode(Image.fromarray(values), "TIFF"), LIMIT)), values)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = decode_png(to_png(encode(Image.fromarray(PIXELS), "TIFF", exif=exif), LIMIT))
    np.testing.assert_array_equal(turned, np.rot90(PIXELS, -1))


def test_what_tensorflow_decodes_is_left_alone() -> None:
    for file_format in ("JPEG", "PNG", "BMP", "GIF", "WEBP"):
        assert not needs_conversion(encode(Image.fromarray(PIXELS), file_format)), file_format
    assert not needs_conversion(b"")
    assert not needs_conversion(b"no image")


@pytest.mark.parametrize("mode", ["GIF", "L", "RGB"])
def test_a_transparent_colour_becomes_alpha(mode: str) -> None:
    """TensorFlow shows transparent pixels of a GIF black, and those of such a PNG in the transparent colour."""
    image = Image.new("L", (20, 10), 0)
    image.paste(90, (5, 0, 20, 10))
    if mode == "GIF":
        contents = encode(image, "GIF", transparency=0)
    else:
        contents = encode(image.convert(mode), "PNG", transparency=0 if mode == "L" else (0, 0, 0))
    assert needs_conversion(contents)
    alpha = np.asarray(Image.open(io.BytesIO(to_png(contents, LIMIT))))[..., -1]
    np.testing.assert_array_equal(alpha, np.where(np.arange(20) < 5, 0, 255)[None].repeat(10, 0))


def test_jpeg_2000_and_pnm_are_read() -> None:
    image = Image.fromarray(PIXELS)
    for contents in (encode(image, "JPEG2000"), encode(image, "PPM")):
        assert needs_conversion(contents)
        np.testing.assert_array_equal(decode_png(to_png(contents, LIMIT)), PIXELS)
    values = RNG.integers(0, 65_536, (6, 9)).astype(np.uint16)
    deep = b"P5 9 6 65535\n" + values.astype(">u2").tobytes()
    np.testing.assert_array_equal(decode_png(to_png(deep, LIMIT)), values)


def test_infinite_values_are_the_limits() -> None:
    values = np.array([[0, 1, np.inf], [-np.inf, np.nan, 0.5]], np.float32)
    found = decode_png(to_png(encode(Image.fromarray(values), "TIFF"), LIMIT))
    np.testing.assert_array_equal(found, [[0, 65_535, 65_535], [0, 0, 32_768]])


VALUES = np.linspace(0, 4095, 48).round().reshape(6, 8)


@pytest.mark.parametrize(
    ("changes", "low", "high"),
    [
        ({}, 0, 4095),
        ({"RescaleSlope": "2", "RescaleIntercept": "-1000"}, 0, 4095),
        ({"WindowCenter": "2048", "WindowWidth": "1000"}, 1548, 2547),
        ({"RescaleSlope": "1", "RescaleIntercept": "-1024", "WindowCenter": "40", "WindowWidth": "400"}, 864, 1263),
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_is_shown_through_its_window(photometric: str, changes: dict[str, str], low: int, high: int) -> None:
    """`low` and `high` are the stored values that become the darkest and the lightest gray."""
    found = decode_png(to_png(dicom(VALUES, PhotometricInterpretation=photometric, **changes), LIMIT)).astype(float)
    expected = np.clip((VALUES - low) / (high - low), 0, 1)
    expected = 1 - expected if photometric == "MONOCHROME1" else expected
    np.testing.assert_allclose(found / 65_535, expected, atol=2 / (high - low))


def test_the_first_frame_of_a_dicom_file_is_taken() -> None:
    frames = np.stack([VALUES, VALUES[::-1]])
    np.testing.assert_array_equal(decode_png(to_png(dicom(frames), LIMIT)), decode_png(to_png(dicom(VALUES), LIMIT)))


def test_colours_of_a_dicom_file() -> None:
    """Of a palette, and of 12 bits per sample."""
    palette = RNG.integers(0, 256, (3, 16))
    names = ("Red", "Green", "Blue")
    tables: dict[str, Any] = {f"{name}PaletteColorLookupTableDescriptor": [16, 0, 16] for name in names}
    for name, colors in zip(names, palette, strict=True):
        tables[f"{name}PaletteColorLookupTableData"] = (257 * colors).astype("<u2").tobytes()
    indices = RNG.integers(0, 16, (6, 8))
    found = decode_png(to_png(dicom(indices, PhotometricInterpretation="PALETTE COLOR", **tables), LIMIT))
    np.testing.assert_array_equal(found, palette.T[indices])
    samples = RNG.integers(0, 4096, (3, 6, 8))  # one plane after the other
    changes = {"SamplesPerPixel": 3, "PlanarConfiguration": 1, "NumberOfFrames": 1}
    found = decode_png(to_png(dicom(samples, PhotometricInterpretation="RGB", **changes), LIMIT))
    np.testing.assert_array_equal(found, samples.transpose(1, 2, 0) >> 4)


@pytest.mark.parametrize("file_format", ["TIFF", "AVIF", "DICOM"])
def test_a_truncated_file_and_one_of_too_many_pixels_have_a_reason(file_format: str) -> None:
    contents = dicom(VALUES) if file_format == "DICOM" else encode(Image.fromarray(PIXELS), file_format)
    with pytest.raises(ValueError, match=f"cannot be decoded as an image: it is a damaged or truncated {file_format}"):
        to_png(contents[: len(contents) * 2 // 3], LIMIT)
    with pytest.raises(ValueError, match=r"pixels are more than data\.max_pixels \(10\)"):
        to_png(contents, 10)


@pytest.mark.parametrize("file_format", ["AVIF", "TIFF", "HEIF", "DICOM"])
def test_any_damage_gives_one_printable_line(file_format: str) -> None:
    """Libraries raise RuntimeError, TypeError and more, and quote bytes of the file."""
    pillow_heif.register_heif_opener()
    contents = dicom(VALUES) if file_format == "DICOM" else encode(Image.fromarray(PIXELS), file_format)
    start = 256 if file_format == "DICOM" else 12
    messages = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        damaged = bytearray(contents)
        for at in rng.integers(start, min(len(damaged), 400), 4):
            damaged[at] = rng.integers(256)
        try:
            to_png(bytes(damaged), LIMIT)
        except ValueError as error:
            messages.append(str(error))
    assert messages
    assert [message for message in messages if not message.isprintable()] == []


def test_a_folder_of_such_files_is_trained_on(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENKEEL_CACHE", str(tmp_path / "cache"))
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        image = Image.fromarray(PIXELS // (label + 1))
        for number, (suffix, contents) in enumerate(
            {
                ".tif": encode(image, "TIFF"),
                ".avif": encode(image, "AVIF"),
                ".jpg": encode(image, "AVIF"),  # a wrong ending
                ".dcm": dicom(VALUES),
                ".bmp": encode(image.convert("P"), "BMP"),
            }.items()
        ):
            (tmp_path / "pets" / name / f"{number}{suffix}").write_bytes(contents)
        (tmp_path / "pets" / name / "9.tif").write_bytes(encode(image, "TIFF")[:100])
    data = load_dataset(DataConfig(source=str(tmp_path / "pets"), image_size=8, max_corrupt_fraction=0.5))
    assert len(data.train) + len(data.validation) == 10
    reason = "cannot be decoded as an image: it is a damaged or truncated TIFF"
    assert sorted(data.skipped) == [f"train: {name}/9.tif: {reason}" for name in ("cat", "dog")]
