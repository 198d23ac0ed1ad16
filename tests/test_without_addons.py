"""Without tensorflow-addons (Python 3.12 and on) everything that does not ask for it works."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from models.config import ModelConfig, TrainConfig, config_json, to_dict
from pipeline.config import DataConfig
from pipeline.opening import Data
from tests.test_addons import OF_ADDONS

ROOT = pathlib.Path(__file__).parent.parent
BLOCKED = """
import importlib.abc, json, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow_addons":
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.slow
def test_training_works_without_addons(small: DataConfig, tmp_path: pathlib.Path) -> None:
    config = TrainConfig(epochs=1, precision="float32", data=small, model=ModelConfig(name="cnn", width=4))
    program = f"""{BLOCKED}
from models.config import TrainConfig, from_dict
from models.train import train
summary = train(from_dict(TrainConfig, json.loads(sys.argv[1])), sys.argv[2])
assert "tensorflow_addons" not in sys.modules
print(summary["status"], summary["steps"])
"""
    command = [sys.executable, "-c", program, json.dumps(to_dict(config)), str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["completed", "15"]


@pytest.mark.slow
@pytest.mark.parametrize("option", [*(f"optimizer.name={name}" for name in OF_ADDONS), "loss=focal"])
def test_an_option_that_needs_addons_says_so_in_one_line(
    option: str, small: DataConfig, data: Data, tmp_path: pathlib.Path
) -> None:
    given = tmp_path / "config.json"
    given.write_text(config_json(TrainConfig(data=small, model=ModelConfig("cnn", width=4))))
    flags = [f"--config={given}", f"--model_dir={tmp_path / 'run'}", f"--{option}"]
    program = f"{BLOCKED}\nimport runpy; runpy.run_module('tools.train', run_name='__main__', alter_sys=True)"
    done = subprocess.run([sys.executable, "-c", program, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr[-2000:]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert line.startswith(f"error: {option} needs tensorflow-addons")
    assert "Python 3.10 or 3.11" in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
