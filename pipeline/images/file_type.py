"""The type of a file by its first bytes, whatever its name says.

file_type(contents)      # "JPEG", or "" if it is no image
describe(contents)       # "an HTML page", for the report of a file that is no image
"""

from __future__ import annotations

import importlib.util
import re

# Files with these endings are taken for images until they are read. Their contents decide.
IMAGE_SUFFIXES = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".jif"), "JPEG"),
    ".png": "PNG",
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    ".gif": "GIF",
    ".webp": "WebP",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    ".avif": "AVIF",
    **dict.fromkeys((".dcm", ".dicom"), "DICOM"),
    **dict.fromkeys((".jp2", ".j2k", ".j2c", ".jpf", ".jpx"), "JPEG 2000"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PNM"),
}
# Files with these endings are images of kinds that are not read. Most raw files of cameras begin like a TIFF, and what
# a TIFF reader finds in them is a thumbnail.
_RAW = ".arw .cr2 .cr3 .crw .dng .nef .nrw .orf .pef .raf .rw2 .srw .x3f"
UNREAD_SUFFIXES = frozenset(f"{_RAW} .jxl .svg .svgz .psd .xcf .ai .eps .ico .icns .tga .pcx .exr .dds".split(" "))
# Files with these endings are no images; files with any other ending are opened to find out.
_TEXT = ".txt .csv .tsv .json .jsonl .xml .yaml .yml .md .rst .html .htm .log .ini .py .ipynb .m .sh .bat .pdf"
_DATA = ".db .mat .npy .npz .h5 .hdf5 .pkl .pt .pth .parquet .arrow .tfrecord .lnk .url .mp4 .avi .mov .mp3 .wav"
_OFFICE_AND_ARCHIVES = ".doc .docx .xls .xlsx .zip .tar .gz .tgz .7z .rar"
OTHER_SUFFIXES = frozenset(f"{_TEXT} {_DATA} {_OFFICE_AND_ARCHIVES}".split(" "))
SNIFFED_BYTES = 132  # DICOM has its mark at byte 128


def file_type(contents: bytes) -> str:
    """The type of an image by its first `SNIFFED_BYTES`: a value of `IMAGE_SUFFIXES`; "" for anything else."""
    for magic, name in (
        (b"\xff\xd8\xff", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"GIF8", "GIF"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"II+\0", "TIFF"),
        (b"MM\0+", "TIFF"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x4f\xff\x51", "JPEG 2000"),  # without a container
    ):
        if contents.startswith(magic):
            return name
    if contents.startswith(b"RIFF") and contents[8:12] == b"WEBP":
        return "WebP"
    if contents.startswith(b"BM") and contents[6:10] == b"\0\0\0\0":  # two reserved words
        return "BMP"
    if contents[4:8] == b"ftyp":
        # ISO/IEC 14496-12: the major brand, the minor version, then compatible brands.
        brands = {contents[8:12], *(contents[at : at + 4] for at in range(16, min(len(contents), 64), 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
            return "HEIC"
    if re.match(rb"P[1-6]\s+[#0-9]", contents):
        return "PNM"
    return "DICOM" if contents[128:132] == b"DICM" else ""


def describe(contents: bytes) -> str:
    """What a file is that cannot be decoded, for a message: "empty", "an HTML page", "a damaged or truncated PNG"."""
    if not contents:
        return "empty"
    if not contents.strip(b"\0"):
        return f"{len(contents)} zero bytes"
    known = file_type(contents)
    if known == "DICOM" and importlib.util.find_spec("pydicom") is None:
        return "a DICOM file, which needs a package: pip install 'evenkeel[medical]'"
    if contents.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return "a JPEG XL image, which is not read (convert it to PNG)"
    if known:
        return f"a damaged or truncated {known}"
    start = contents[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if b"<svg" in start:
        return "an SVG drawing"
    if start.startswith(b"<?xml"):
        return "an XML file"
    if start.startswith(b"%pdf"):
        return "a PDF"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    if start.startswith(b"pk\x03\x04"):
        return "a ZIP archive"
    try:
        contents[:512].decode("ascii")
    except UnicodeDecodeError:
        return f"of an unknown format (first bytes {contents[:8].hex(' ')})"
    return "a text file"
