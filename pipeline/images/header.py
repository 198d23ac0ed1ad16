"""The first bytes of an image file -> its format and size, before anything is decoded.

    header = read_header(contents)
    header.format, header.width, header.height, header.refusal    # refusal: why it must not reach the decoder, or ""

A file of a few bytes can claim any size, so whoever decodes looks here first. What TensorFlow 2.21's decoders would
get wrong in silence, or worse, is refused by name.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

UNKNOWN, JPEG, PNG, BMP, GIF, WEBP = range(6)
FORMATS = ("unknown", "JPEG", "PNG", "BMP", "GIF", "WebP")

LONGEST_SIDE = 65_535  # JPEG's and GIF's limit
# A scan of a progressive JPEG costs its file some bytes and its decoder a pass over the image; libjpeg-turbo's own
# tests stop at as many. Cameras and encoders write about ten.
MOST_SCANS = 500
# Deflate's best: a byte of a PNG file becomes at most 1,032 (zlib's technical details).
DEFLATE_RATIO = 1032


class Header(NamedTuple):
    """`pixels`: what decoding holds, which for a GIF are those of all its frames, whichever is asked for."""

    format: int
    width: int
    height: int
    pixels: int
    refusal: str = ""


def read_header(contents: bytes) -> Header | None:
    """The header of a JPEG, PNG, BMP, GIF or WebP file; None where these bytes are none of them or end too soon."""
    for magic, read in READERS.items():
        if contents.startswith(magic):
            try:
                header = read(contents)
            except (struct.error, IndexError):
                return None
            if header is None or min(header.width, header.height) < 1:
                return None
            if max(header.width, header.height) > LONGEST_SIDE and not header.refusal:
                return header._replace(refusal=f"a side is longer than {LONGEST_SIDE} pixels")
            return header
    return None


def _jpeg(contents: bytes) -> Header | None:
    at = 2
    while True:
        at = contents.find(b"\xff", at)
        if at < 0:
            return None
        while contents[at] == 0xFF:
            at += 1
        marker = contents[at]
        at += 1
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            continue
        if marker in (0xD9, 0xDA):  # the end, or a scan, before any frame
            return None
        (length,) = struct.unpack_from(">H", contents, at)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", contents, at + 3)
            # Inside a scan 0xFF is followed by 0 or a restart marker, so a scan's marker cannot occur by chance.
            scans = contents.count(b"\xff\xda")
            refusal = f"a JPEG of {scans} scans, more than {MOST_SCANS}" if scans > MOST_SCANS else ""
            return Header(JPEG, width, height, width * height, refusal)
        if length < 2:
            return None
        at += length


def _png(contents: bytes) -> Header | None:
    if contents[:8] != b"\x89PNG\r\n\x1a\n" or contents[12:16] != b"IHDR":
        return None
    width, height, bits, colour = struct.unpack_from(">IIBB", contents, 16)
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    refusal = ""
    if width * height * samples * bits > len(contents) * DEFLATE_RATIO * 8:
        refusal = f"a PNG of {width} x {height} pixels cannot be {len(contents)} bytes long"
    return Header(PNG, width, height, width * height, refusal)


def _bmp(contents: bytes) -> Header | None:
    first, size = struct.unpack_from("<iI", contents, 10)
    if size < 40:
        width, height = struct.unpack_from("<HH", contents, 18)
        return Header(BMP, width, height, width * height, "a BMP with a header of OS/2 cannot be decoded")
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", contents, 18)
    height = abs(height)  # negative: the top row comes first
    line = (bits * width + 31) // 32 * 4
    refusal = ""
    if bits not in (8, 24, 32):
        refusal = f"a BMP of {bits} bits a pixel cannot be decoded"
    elif compression and (compression, bits) != (3, 32):  # 3: the order of channels, as alpha has it
        refusal = "a compressed BMP cannot be decoded"
    elif first < 14 + size or first + (height - 1) * line + bits * width // 8 > len(contents):
        # TensorFlow reads from `first` on even where that is negative, and counts rows in 32 bits.
        refusal = f"a BMP of {width} x {height} pixels from byte {first} on cannot be {len(contents)} bytes long"
    elif bits == 8:
        (colours,) = struct.unpack_from("<I", contents, 46)
        palette = contents[14 + size : 14 + size + 4 * min(colours or 256, 256)]
        if any(palette[4 * i : 4 * i + 3] != bytes([i, i, i]) for i in range(len(palette) // 4)):
            # TensorFlow takes the palette's numbers for gray levels.
            refusal = "a BMP with a palette cannot be decoded"
    return Header(BMP, width, height, width * height, refusal)


def _gif(contents: bytes) -> Header | None:
    width, height, flags = struct.unpack_from("<HHB", contents, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    pixels = 0
    while at < len(contents) and contents[at] in (0x21, 0x2C):
        if contents[at] == 0x21:
            at += 2
        else:
            w, h, flags = struct.unpack_from("<HHB", contents, at + 5)
            pixels += w * h
            at += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        while contents[at]:
            at += 1 + contents[at]
        at += 1
    return Header(GIF, width, height, max(pixels, width * height))


def _webp(contents: bytes) -> Header | None:
    kind = contents[8:16]
    if kind == b"WEBPVP8 " and contents[23:26] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", contents, 26))
    elif kind == b"WEBPVP8L" and contents[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", contents, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"WEBPVP8X":
        width, height = (1 + int.from_bytes(contents[at : at + 3], "little") for at in (24, 27))
        if contents[20] & 2:
            # Without an alpha channel it makes TensorFlow 2.21's decoder write beyond its buffer.
            return Header(WEBP, width, height, width * height, "an animated WebP cannot be decoded")
    else:
        return None
    return Header(WEBP, width, height, width * height)


READERS = {b"\xff\xd8\xff": _jpeg, b"\x89PNG": _png, b"BM": _bmp, b"GIF8": _gif, b"RIFF": _webp}
