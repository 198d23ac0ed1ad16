"""A contact sheet: many images in one picture, each with a caption."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from evenkeel.pipeline.images.decode import decode_whole
from evenkeel.pipeline.images.exif import turn_upright
from evenkeel.pipeline.index.index import RAW, Index

TILES_PER_ROW = 10
TILE_PIXELS, GAP_PIXELS, CAPTION_PIXELS = 112, 6, 26
GROUP_GAP_PIXELS = 18  # more between groups
CAPTION_CHARACTERS = 20  # characters in a line; a longer line loses its beginning


def draw_contact_sheet(tiles: Sequence[tuple[Index, str]], group: int = 0) -> Image.Image:
    """A picture of the first image of each index, scaled into a square, above a caption of up to two lines.

    Every `group` tiles stand closer together; 0 makes no groups.
    """
    rows = -(-len(tiles) // TILES_PER_ROW)
    group_gaps = lambda tile: tile // group * GROUP_GAP_PIXELS if group else 0  # noqa: E731
    in_row = min(len(tiles), TILES_PER_ROW)
    width = in_row * (TILE_PIXELS + GAP_PIXELS) + group_gaps(in_row - 1) + GAP_PIXELS
    height = rows * (TILE_PIXELS + GAP_PIXELS + CAPTION_PIXELS) + GAP_PIXELS
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for number, (index, caption) in enumerate(tiles):
        column = number % TILES_PER_ROW
        left = GAP_PIXELS + column * (TILE_PIXELS + GAP_PIXELS) + group_gaps(column)
        top = GAP_PIXELS + number // TILES_PER_ROW * (TILE_PIXELS + GAP_PIXELS + CAPTION_PIXELS)
        image = Image.fromarray(read_pixels(index))
        scale = TILE_PIXELS / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        sheet.paste(image.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST), (left, top))
        for line, text in enumerate(caption.split("\n")):
            short = text if len(text) <= CAPTION_CHARACTERS else "..." + text[3 - CAPTION_CHARACTERS :]
            draw.text((left, top + TILE_PIXELS + line * CAPTION_PIXELS // 2), short, "black", font)
    return sheet


def read_pixels(index: Index) -> np.ndarray:
    """Reads the image of the first row from its shard, upright, uint8 [height, width, 3]."""
    row = {name: column[0] for name, column in index.columns.items()}
    with tf.io.gfile.GFile(index.shards[row["shard"]], "rb") as file:
        file.seek(int(row["offset"]))
        contents = file.read(int(row["length"]))
    if row["kind"] == RAW:
        return np.frombuffer(contents, np.uint8).reshape(row["height"], row["width"], 3)
    return turn_upright(
        decode_whole(tf.constant(contents), 3, sample_bits=index.sample_bits), row["orientation"]
    ).numpy()
