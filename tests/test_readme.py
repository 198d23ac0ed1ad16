"""The documents name every flag, and what the README shows exists and runs."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

from models.config import TrainConfig
from pipeline.config import PrepareConfig
from tools.flags import options

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("config", [TrainConfig, PrepareConfig])
def test_every_flag_is_listed_with_its_default_and_help(config: type) -> None:
    listed = (ROOT / "docs" / "flags.md").read_text()
    for option in options(config):
        default = "" if option.default == "" else f", {option.default}"
        row = f"| `--{option.name}` | {option.kind.__name__}{default} | {option.help.replace('|', chr(92) + '|')} |"
        assert row in listed, option.name


def test_pictures_and_links_exist() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#\s]+)", README) if "://" not in target]
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_the_users_own_script_runs_and_writes_histograms(tmp_path: pathlib.Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    script = next(block for block in blocks if "model.fit" in block)
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{script}"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert list((tmp_path / "runs" / "mine" / "train").glob("events*"))


def test_the_users_own_model_is_one_that_trains() -> None:
    from models.config import ModelConfig
    from models.network import create

    block = next(b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "def tiny" in b)
    assert "function" in README

    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "mine.py"
        path.write_text(block)
        assert create(ModelConfig(name=f"{path}:tiny"), (32, 32, 3), 10).output_shape == (None, 10)


def test_the_table_of_scaling_is_what_its_code_prints() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 15
    assert done.stdout in text


def test_what_documents_link_to_exists() -> None:
    for document in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
            assert "://" in target or (document.parent / target).exists(), (document.name, target)
