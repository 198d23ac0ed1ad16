"""The type of a file by its contents."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from evenkeel.pipeline.images.file_type import SNIFFED_BYTES, describe, file_type


def encode(file_format: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 10, 10)).save(file, file_format)
    return file.getvalue()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "GIF", "BMP", "WebP", "TIFF", "AVIF"])
def test_encoders_of_pillow_are_recognized(file_format: str) -> None:
    contents = encode(file_format)
    assert file_type(contents[:SNIFFED_BYTES]) == file_format
    assert describe(contents[: len(contents) // 2]) == f"a damaged or truncated {file_format}"


def test_heic_and_dicom_are_recognized_by_their_marks() -> None:
    assert file_type(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic") == "HEIC"
    assert file_type(b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif") == "AVIF"
    assert file_type(b"\0\0\0\x18ftypmp42\0\0\0\0isomiso2") == ""
    assert file_type(bytes(128) + b"DICM") == "DICOM"
    assert file_type(b"\xff\x4f\xff\x51\0") == "JPEG 2000"
    assert file_type(b"P6\n# a comment\n2 1 255\n") == "PNM"
    assert file_type(b"P1 is the first place") == ""


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image, which is not read (convert it to PNG)"),
        (b"", "empty"),
        (bytes(100), "100 zero bytes"),
        (b"\n<!DOCTYPE html><html>404", "an HTML page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "an XML file"),
        (b"%PDF-1.7", "a PDF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a Git LFS pointer"),
        (b"PK\x03\x04\x14\0", "a ZIP archive"),
        (b"hello", "a text file"),
        (b"\x93NUMPY\x01\0", "of an unknown format (first bytes 93 4e 55 4d 50 59 01 00)"),
    ],
)
def test_files_that_are_no_images_are_described(contents: bytes, words: str) -> None:
    assert file_type(contents) == ""
    assert describe(contents) == words
