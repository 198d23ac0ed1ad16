"""Pictures for TensorBoard as uint8 arrays [height, width, 3]: a grid of images, a confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def draw_grid(images: np.ndarray, gap: int = 2) -> np.ndarray:
    """Draws images, uint8 [n, h, w, c], on white in ceil(sqrt(n)) columns, `gap` pixels apart."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        y, x = gap + row * (height + gap), gap + column * (width + gap)
        canvas[y : y + height, x : x + width] = image
    return np.repeat(canvas, 3, axis=2) if channels == 1 else canvas


def draw_confusion_matrix(matrix: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Draws a confusion matrix, counts [classes, classes] (rows are true classes), coloured by share of the row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    side = min(12.0, 3 + 0.45 * len(classes))
    figure = Figure(figsize=(side, side), dpi=90, layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    if len(classes) <= 40:  # names of more classes would be too small to read
        axes.set_xticks(range(len(classes)), classes, rotation=90)
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= 20:  # with more classes the counts would be too small to read
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                color = "white" if shares[row, column] > 0.5 else "black"
                # Numbers lie inside the axes; measuring them for the layout takes a fifth of the time.
                axes.text(
                    column, row, f"{count:.0f}", ha="center", va="center", color=color, fontsize=7, in_layout=False
                )
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
