"""Pictures of a run as uint8 arrays [height, width, 3]."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def grid(images: np.ndarray, gap: int = 2) -> np.ndarray:
    """uint8 images [n, h, w, c] side by side in a square of about sqrt(n) columns, on white."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for number, image in enumerate(images):
        y, x = (gap + side * (at + gap) for side, at in zip(divmod(number, columns), (height, width), strict=True))
        canvas[y : y + height, x : x + width] = image
    return np.repeat(canvas, 3, axis=2) if channels == 1 else canvas


def confusion_matrix(matrix: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Counts [classes, classes] by true (rows) and predicted class, coloured by their share of the true class."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    side = min(12.0, 3 + 0.45 * len(classes))
    figure = Figure(figsize=(side, side), dpi=90, layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    if len(classes) <= 40:  # beyond, neither names nor numbers can be read
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= 20:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=7)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
