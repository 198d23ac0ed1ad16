"""Image files as an unlucky user has them, drawn from a seed: cut short, flipped bits, lying headers, wrong names."""

from __future__ import annotations

import io
import pathlib
import struct
import zlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import Image

from evenkeel.pipeline.images.convert import needs_conversion, to_png
from evenkeel.pipeline.images.header import read_header

FORMATS: dict[str, tuple[str, list[dict]]] = {
    "jpg": ("JPEG", [{"quality": 90}, {"quality": 60, "progressive": True}, {"subsampling": 0}]),
    "png": ("PNG", [{}, {"interlace": 1}]),
    "bmp": ("BMP", [{}]),
    "gif": ("GIF", [{}, {"save_all": True}]),
    "webp": ("WEBP", [{"quality": 80}, {"lossless": True}, {"save_all": True}]),
}
MODES = {"jpg": ("RGB", "L", "CMYK"), "png": ("RGB", "L", "LA", "RGBA", "P", "I;16", "1"), "bmp": ("RGB", "L", "P"),
         "gif": ("RGB", "P"), "webp": ("RGB", "RGBA")}  # fmt: skip
MOST = 65_535


def sound(rng: np.random.Generator) -> tuple[str, bytes]:
    """(ending, contents) of an image file as encoders write it."""
    ending = str(rng.choice(list(FORMATS)))
    file_format, variants = FORMATS[ending]
    options = variants[rng.integers(len(variants))]
    height, width = rng.integers(1, 80, 2)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    if rng.random() < 0.5:
        pixels = np.asarray(Image.fromarray(pixels[:4, :4]).resize((width, height)))
    mode = str(rng.choice(MODES[ending]))
    image = (
        Image.fromarray(pixels).convert("L").convert(mode) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    )
    if options.get("save_all"):
        options = {**options, "append_images": [image.rotate(90), image.rotate(180)]}
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return ending, file.getvalue()


def truncated(contents: bytes, rng: np.random.Generator) -> bytes:
    return contents[: rng.integers(0, len(contents))]


def flipped(contents: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(contents)
    for at in rng.integers(0, len(changed), rng.choice([1, 3, 30])):
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def flipped_header(contents: bytes, rng: np.random.Generator) -> bytes:
    """Random bytes within the first 64, where sizes, types and lengths stand; the magic stays."""
    changed = bytearray(contents)
    for at in rng.integers(4, min(64, len(changed)), rng.choice([1, 2, 6])):
        changed[at] = int(rng.integers(256))
    return bytes(changed)


def zeroed(contents: bytes, rng: np.random.Generator) -> bytes:
    first, last = sorted(rng.integers(0, len(contents) + 1, 2).tolist())
    return contents[:first] + bytes(last - first) + contents[last:]


def empty(contents: bytes, rng: np.random.Generator) -> bytes:
    return bytes(int(rng.choice([0, 0, 100])))


def garbage(contents: bytes, rng: np.random.Generator) -> bytes:
    """A sound beginning, then noise."""
    return contents[: rng.integers(0, 40)] + rng.bytes(int(rng.integers(1, 2000)))


def doubled(contents: bytes, rng: np.random.Generator) -> bytes:
    """A piece of the file once more, at another place."""
    a, b, at = sorted(rng.integers(0, len(contents) + 1, 3).tolist())
    return contents[:at] + contents[a:b] + contents[at:]


def huge(contents: bytes, rng: np.random.Generator) -> bytes:
    """Claims a size between 6,000 x 6,000 and the format's largest, with whatever checksums belong to it."""
    width, height = (int(side) for side in rng.choice([6000, 9999, 16_383, 30_000, MOST], 2))
    changed = bytearray(contents)
    if contents[:4] == b"\x89PNG":
        struct.pack_into(">II", changed, 16, width, height)
        struct.pack_into(">I", changed, 29, zlib.crc32(changed[12:29]))
    elif contents[:2] == b"BM":
        struct.pack_into("<ii", changed, 18, width, height if rng.random() < 0.5 else -height)
    elif contents[:3] == b"GIF":
        struct.pack_into("<HH", changed, 6, width, height)
        frame = contents.find(b"\x2c", 13)
        if rng.random() < 0.7 and 0 < frame < len(contents) - 9:
            struct.pack_into("<HH", changed, frame + 5, width, height)
    elif contents[:4] == b"RIFF":
        width, height = min(width, 16_383), min(height, 16_383)
        if contents[12:16] == b"VP8 ":
            struct.pack_into("<HH", changed, 26, width, height)
        elif contents[12:16] == b"VP8L":
            (bits,) = struct.unpack_from("<I", contents, 21)
            struct.pack_into("<I", changed, 21, bits >> 28 << 28 | height - 1 << 14 | width - 1)
        else:
            changed[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    else:
        for marker in (b"\xff\xc0", b"\xff\xc2"):
            at = contents.find(marker)
            if 0 < at < len(contents) - 9:
                struct.pack_into(">HH", changed, at + 5, height, width)
    return bytes(changed)


CHANGES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    truncated, flipped, flipped_header, zeroed, empty, garbage, doubled, huge,
)  # fmt: skip


def mutated(seed: int) -> tuple[str, bytes]:
    """(file name, contents): a function of the seed; one in eight has another format's ending and is sound."""
    rng = np.random.default_rng(seed)
    ending, contents = sound(rng)
    name, kind = ending, seed % (len(CHANGES) + 1)
    if kind == len(CHANGES):
        name = str(rng.choice([other for other in FORMATS if other != ending]))
        label = "renamed"
    else:
        contents, label = CHANGES[kind](contents, rng), CHANGES[kind].__name__
    # A folder takes no GIFs by their ending; what is inside another may be one.
    return f"{seed:05d}-{label}-{ending}.{'jpg' if name == 'gif' else name}", contents


def folder(root: pathlib.Path, seeds: range, good: int = 8) -> dict[str, bytes]:
    """`good` sound JPEGs and a mutated file for each seed, in two classes and two splits; {name: contents}."""
    files = {}
    for number in range(good):
        file = io.BytesIO()
        rng = np.random.default_rng([number, 0, 0])
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(file, "JPEG")
        files[f"{'train' if number % 4 < 2 else 'test'}/{'cat' if number % 2 else 'dog'}/good-{number}.jpg"] = (
            file.getvalue()
        )
    for seed in seeds:
        name, contents = mutated(seed)
        files[f"{'test' if seed % 5 == 0 else 'train'}/{'cat' if seed % 2 else 'dog'}/{name}"] = contents
    for name, contents in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents)
    return files


def unstorable(contents: bytes, max_pixels: int = 100_000_000) -> bool:
    """Whether the file must be left out when a source is stored, which converts what TensorFlow cannot decode."""
    if needs_conversion(contents):
        try:
            contents = to_png(contents, max_pixels)
        except ValueError:
            return True
    return undecodable(contents, max_pixels)


def undecodable(contents: bytes, max_pixels: int = 100_000_000) -> bool:
    """Whether the file must be left out: its header is refused, it has too many pixels, or it does not decode."""
    header = read_header(contents)
    if header is None or header.refusal or header.pixels > max_pixels:
        return True
    try:
        tf.io.decode_image(contents, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return True
    return False
