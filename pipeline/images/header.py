"""Reads the format and size of an image file from its first bytes, without decoding it.

    header = read_header(contents)
    header.format, header.width, header.height, header.refusal    # refusal: why the file must not be decoded, or ""

A file of a few bytes can claim any size, so the header is checked before decoding. Files that TensorFlow 2.21's
decoders would decode wrongly without an error, or crash on, are refused with a reason.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

UNKNOWN, JPEG, PNG, BMP, GIF, WEBP = range(6)
FORMATS = ("unknown", "JPEG", "PNG", "BMP", "GIF", "WebP")

MAX_SIDE = 65_535  # pixels: the limit of JPEG and GIF
# Each scan of a progressive JPEG takes only a few bytes of the file, but a pass of the decoder over the image.
# libjpeg-turbo's own tests have the same limit; cameras and encoders write about ten scans.
MAX_SCANS = 500
# TensorFlow 2.21 decodes a JPEG of 13,300 x 13,300 pixels and none of 13,400 x 13,400, whatever the part that is asked
# for: its 3 bytes per pixel must be fewer than 2^29. A PNG must have fewer than 2^29 pixels.
MAX_JPEG_PIXELS, MAX_PNG_PIXELS = ((1 << 29) - 1) // 3, (1 << 29) - 1
COLOR_KEY = "a PNG with a transparent colour cannot be decoded"  # TensorFlow shows the colour, often black
DECODED_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # markers: baseline, extended, progressive; with arithmetic coding
JPEG_LS_FRAME = 0xF7
MAX_DEFLATE_RATIO = 1032  # largest number of bytes that one byte of a PNG file can hold (zlib's technical details)


class Header(NamedTuple):
    """What the header of an image file says.

    Attributes:
      format: JPEG, PNG, BMP, GIF or WEBP; an index into `FORMATS`.
      width: width in pixels.
      height: height in pixels.
      pixels: number of pixels that the decoder holds in memory; for a GIF, the pixels of all frames, although only one
        frame is used.
      refusal: why the file must not be decoded; empty if it may be decoded.
    """

    format: int
    width: int
    height: int
    pixels: int
    refusal: str = ""


def read_header(contents: bytes) -> Header | None:
    """The header of a JPEG, PNG, BMP, GIF or WebP file; None for other or truncated bytes."""
    for magic, read in READERS.items():
        if contents.startswith(magic):
            try:
                header = read(contents)
            except (struct.error, IndexError):
                return None
            if header is None or min(header.width, header.height) < 1:
                return None
            if max(header.width, header.height) > MAX_SIDE and not header.refusal:
                return header._replace(refusal=f"a side is longer than {MAX_SIDE} pixels")
            return header
    return None


def _check_pixels(image_format: str, width: int, height: int, most: int) -> str:
    if width * height <= most:
        return ""
    return f"a {image_format} of {width} x {height} pixels, more than TensorFlow decodes ({most}): scale it down"


def _read_jpeg(contents: bytes) -> Header | None:
    position = 2
    while True:
        position = contents.find(b"\xff", position)
        if position < 0:
            return None
        while contents[position] == 0xFF:
            position += 1
        marker = contents[position]
        position += 1
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            continue
        if marker in (0xD9, 0xDA):  # the end of the image, or a scan, before any frame header
            return None
        (length,) = struct.unpack_from(">H", contents, position)
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == JPEG_LS_FRAME:
            height, width = struct.unpack_from(">HH", contents, position + 3)
            # Inside a scan, 0xFF is followed by 0 or a restart marker, so the marker of a scan cannot occur by chance.
            scans = contents.count(b"\xff\xda")
            refusal = f"a JPEG of {scans} scans, more than {MAX_SCANS}" if scans > MAX_SCANS else ""
            refusal = refusal or _check_pixels("JPEG", width, height, MAX_JPEG_PIXELS)
            if marker not in DECODED_FRAMES or contents[position + 2] != 8:
                kind = f"of {contents[position + 2]} bits per sample" if marker in DECODED_FRAMES else "without loss"
                refusal = f"a JPEG {kind} cannot be decoded (convert it to PNG)"
            return Header(JPEG, width, height, width * height, refusal)
        if length < 2:
            return None
        position += length


def _read_png(contents: bytes) -> Header | None:
    if contents[:8] != b"\x89PNG\r\n\x1a\n" or contents[12:16] != b"IHDR":
        return None
    width, height, bits, color_type = struct.unpack_from(">IIBB", contents, 16)
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(color_type, 1)
    refusal = _check_pixels("PNG", width, height, MAX_PNG_PIXELS)
    if width * height * samples * bits > len(contents) * MAX_DEFLATE_RATIO * 8:
        refusal = f"a PNG of {width} x {height} pixels cannot be {len(contents)} bytes long"
    elif color_type in (0, 2) and _has_transparent_color(contents):
        refusal = COLOR_KEY
    return Header(PNG, width, height, width * height, refusal)


def _has_transparent_color(contents: bytes) -> bool:
    """Whether a PNG has a tRNS chunk, which stands before the pixels."""
    position, kind = 8, b""
    while kind not in (b"IDAT", b"tRNS"):
        length, kind = struct.unpack_from(">I4s", contents, position)
        position += 12 + length
    return kind == b"tRNS"


def _read_bmp(contents: bytes) -> Header | None:
    data_offset, header_size = struct.unpack_from("<iI", contents, 10)
    if header_size < 40:
        width, height = struct.unpack_from("<HH", contents, 18)
        return Header(BMP, width, height, width * height, "a BMP with an OS/2 header cannot be decoded")
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", contents, 18)
    height = abs(height)  # negative: the top row comes first
    row_bytes = (bits * width + 31) // 32 * 4
    refusal = ""
    if bits not in (8, 24, 32):
        refusal = f"a BMP of {bits} bits per pixel cannot be decoded"
    elif compression and (compression, bits) != (3, 32):  # with 32 bits, 3 only states the order of channels
        refusal = "a compressed BMP cannot be decoded"
    elif data_offset < 14 + header_size or data_offset + (height - 1) * row_bytes + bits * width // 8 > len(contents):
        # TensorFlow reads from the offset of the pixels on, even from a negative one, and counts rows in 32 bits.
        refusal = f"a BMP of {width} x {height} pixels from byte {data_offset} on cannot be {len(contents)} bytes long"
    elif bits == 8:
        (colors,) = struct.unpack_from("<I", contents, 46)
        palette = contents[14 + header_size : 14 + header_size + 4 * min(colors or 256, 256)]
        if any(palette[4 * i : 4 * i + 3] != bytes([i, i, i]) for i in range(len(palette) // 4)):
            # TensorFlow would take the palette's indices for gray levels.
            refusal = "a BMP with a palette cannot be decoded"
    return Header(BMP, width, height, width * height, refusal)


def _read_gif(contents: bytes) -> Header | None:
    width, height, flags = struct.unpack_from("<HHB", contents, 6)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    pixels, refusal = 0, ""
    while position < len(contents) and contents[position] in (0x21, 0x2C):
        if contents[position] == 0x21:
            is_control, flags = contents[position + 1] == 0xF9, contents[position + 3]
            if is_control and flags & 1 and not pixels:  # TensorFlow shows transparent pixels black
                refusal = "a GIF with transparent pixels cannot be decoded"
            position += 2
        else:
            frame_width, frame_height, flags = struct.unpack_from("<HHB", contents, position + 5)
            pixels += frame_width * frame_height
            position += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
        while contents[position]:
            position += 1 + contents[position]
        position += 1
    return Header(GIF, width, height, max(pixels, width * height), refusal)


def _read_webp(contents: bytes) -> Header | None:
    kind = contents[8:16]
    if kind == b"WEBPVP8 " and contents[23:26] == b"\x9d\x01\x2a":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", contents, 26))
    elif kind == b"WEBPVP8L" and contents[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", contents, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"WEBPVP8X":
        width, height = (1 + int.from_bytes(contents[start : start + 3], "little") for start in (24, 27))
        if contents[20] & 2:
            # An animation without an alpha channel makes TensorFlow 2.21's decoder write beyond its buffer.
            return Header(WEBP, width, height, width * height, "an animated WebP cannot be decoded")
    else:
        return None
    return Header(WEBP, width, height, width * height)


# {first bytes of a file: the reader of its header}
READERS = {
    b"\xff\xd8\xff": _read_jpeg,
    b"\x89PNG": _read_png,
    b"BM": _read_bmp,
    b"GIF8": _read_gif,
    b"RIFF": _read_webp,
}
