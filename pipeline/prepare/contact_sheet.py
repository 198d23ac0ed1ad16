"""Many images on one picture, each with a caption: a look at what was found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageFont

from evenkeel.pipeline.images.decode import decode_whole
from evenkeel.pipeline.index.index import RAW, Index

COLUMNS = 10
TILE, GAP, CAPTION = 112, 6, 26  # pixels


def contact_sheet(tiles: Sequence[tuple[Index, str]]) -> Image.Image:
    """The images of one-row indexes under captions of two lines, ten to a row, each scaled into a square."""
    rows = -(-len(tiles) // COLUMNS)
    width, height = min(len(tiles), COLUMNS) * (TILE + GAP) + GAP, rows * (TILE + GAP + CAPTION) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(10)
    for number, (row, caption) in enumerate(tiles):
        left = GAP + number % COLUMNS * (TILE + GAP)
        top = GAP + number // COLUMNS * (TILE + GAP + CAPTION)
        image = Image.fromarray(pixels(row))
        scale = TILE / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        sheet.paste(image.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST), (left, top))
        for line, text in enumerate(caption.split("\n")):
            short = text if len(text) <= 20 else "..." + text[-17:]
            draw.text((left, top + TILE + line * CAPTION // 2), short, "black", font)
    return sheet


def pixels(row: Index) -> np.ndarray:
    """uint8 [height, width, 3] of an index's first row, read from its shard."""
    columns = {name: column[0] for name, column in row.columns.items()}
    with tf.io.gfile.GFile(row.shards[columns["shard"]], "rb") as file:
        file.seek(int(columns["offset"]))
        contents = file.read(int(columns["length"]))
    if columns["kind"] == RAW:
        return np.frombuffer(contents, np.uint8).reshape(columns["height"], columns["width"], 3)
    return decode_whole(tf.constant(contents), channels=3).numpy()
