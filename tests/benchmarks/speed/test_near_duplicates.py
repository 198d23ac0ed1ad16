"""The benchmark of near duplicates on rendered images: it writes and draws what it finds."""

from __future__ import annotations

import pathlib

from PIL import Image

from evenkeel.benchmarks.results import read
from tests import forked
from tests.indexes import render_images

MODULE = "evenkeel.benchmarks.speed.near_duplicates"


def test_a_run_writes_and_draws_what_it_finds(tmp_path: pathlib.Path) -> None:
    pictures = [Image.fromarray(pixels) for pixels in render_images(8, size=64)]
    for number, picture in enumerate([*pictures, pictures[0].resize((40, 40))]):
        (tmp_path / "images").mkdir(exist_ok=True)
        picture.save(tmp_path / f"images/{number}.png")
    (tmp_path / "images/notes.txt").write_text("no image")
    done = forked.run(
        MODULE, f"--source={tmp_path}/images", f"--output={tmp_path}/result.json", f"--sheet={tmp_path}/sheet.png"
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 36 pairs of 9 originals are near duplicates (limit 40); 0 have no hash" in done.stdout
    medians = {(result.case, result.metric): result.median for result in read(f"{tmp_path}/result.json").results}
    assert medians["originals", "pairs"] == 1
    assert medians["mirrored", "found"] == medians["JPEG 75", "found"] == 1
    assert medians["turned by 90 degrees", "found"] < 0.5
    assert Image.open(tmp_path / "sheet.png").size == (5 * 204, 108)


def test_a_folder_without_images_is_refused(tmp_path: pathlib.Path) -> None:
    done = forked.run(MODULE, f"--source={tmp_path}")
    assert done.returncode == 2
    assert f"--source ({tmp_path}) holds 0 images: give a folder with more." in done.stderr
