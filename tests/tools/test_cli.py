"""The command lines: bad input ends in one line and exit code 2, with nothing written; flags resolve as documented."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from PIL import Image

from evenkeel.__main__ import COMMANDS, MODULES
from evenkeel.models.config import TrainConfig
from evenkeel.models.presets import PRESETS
from evenkeel.tools import stdout
from evenkeel.tools.flags import PRESET_FLAGS, SHORT_NAMES, options
from tests import forked
from tests.command_line import TINY, refused, tool

ROOT = pathlib.Path(__file__).parents[2]
SHALLOW = f"{ROOT / 'tests' / 'models' / 'doctor' / 'cases.py'}:normed"  # one convolution
STEERING = "a\n\x1b[31m"  # the name of a folder
SEVEN = "x = keras.Input(input_shape); y = keras.layers.Dense(7)(keras.layers.Flatten()(x)); return keras.Model(x, y)"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--epoch=3"], ["epoch", "Did you mean: epochs"]),
        (["--epochs=many"], ["epochs", "many"]),
        (["extra"], ["extra", "--name=value"]),
        (["--preset=cifr"], ["cifr", "'cifar'"]),
        (["--model.name=resnet8"], ["resnet8", "'resnet18'"]),
        (["--optimizer.name=sdg"], ["sdg", "'sgd'"]),
        (["--optimizer.learning_rate=-1"], ["-1.0", "must be positive"]),
        (["--data.image_size=0"], ["data.image_size (0)", "side of a square in pixels"]),
        (["--config=no/such.json"], ["no/such.json", "config.json"]),
    ],
)
def test_a_bad_flag_is_one_line_without_loading_tensorflow(flags: list[str], words: list[str]) -> None:
    code = "import sys, runpy; sys.argv[0] = 'train'\ntry: runpy.run_module('tools.train', run_name='__main__')\n"
    code += "finally: assert 'tensorflow' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True)
    line = refused(done)
    for word in words:
        assert word in line


def folder(root: pathlib.Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), "red").save(root / name)
    return str(root)


def users_model(path: pathlib.Path, body: str) -> str:
    path.write_text(f"import tf_keras as keras\ndef network(input_shape, classes):\n    {body}\n")
    return f"{path}:network"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (lambda tmp: ["--data.source=shaeps"], ["shaeps", "directory"]),
        (lambda tmp: ["--data.source=tfds:no_such_set"], ["tfds:no_such_set"]),
        (lambda tmp: [f"--data.source={folder(tmp / 'empty')}", "--seed=1"], ["neither shapes"]),
        (lambda tmp: [f"--data.source={tmp}"], ["holds no images", "SPLIT/CLASS/IMAGE"]),
        (lambda tmp: [f"--data.source={folder(tmp / 'one', 'cat/a.png', 'cat/b.png')}"], ["only one class (cat)"]),
        (lambda tmp: [f"--data.source={folder(tmp / STEERING, 'a/1.png')}"], ["a\\n\\x1b[31m", "one class"]),
        (lambda tmp: ["--data.train_split=trian"], ["'trian'", "train (300)"]),
        (lambda tmp: ["--batch_size=21", "--strategy.name=mirrored", "--strategy.logical_cpus=2"], ["(21)", "(2)"]),
        (lambda tmp: [f"--model.name={tmp / 'no.py'}:network"], ["no.py", "no file"]),
        (lambda tmp: [f"--model.name={users_model(tmp / 'm.py', 'return 3')}"], ["builtins.int", "tf_keras"]),
        (lambda tmp: [f"--model.name={users_model(tmp / 'w.py', SEVEN)}"], ["(None, 7)", "10 classes"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(flags, words: list[str], tmp_path: pathlib.Path) -> None:
    model_dir = tmp_path / "run"
    line = refused(forked.run("tools.train", *TINY, f"--model_dir={model_dir}", *flags(tmp_path)))
    for word in words:
        assert word in line
    assert not model_dir.exists()


@pytest.mark.parametrize(
    ("content", "flags", "words"),
    [
        ("{", [], "cannot be read: Expecting property name"),
        ("[]", [], "must hold a JSON object"),
        ('{"epoch": 3}', [], "has no option epoch"),
        ('{"model": "cnn"}', ["--model.width=4"], "model ('cnn') of --config must be a group of options"),
        ('{"epochs": {"many": 3}}', ["--preset=quick"], "epochs ({'many': 3}) must be of type int"),
    ],
)
def test_a_bad_configuration_file_is_one_line(
    content: str, flags: list[str], words: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "config.json").write_text(content)
    assert words in refused(tool("train", f"--config={tmp_path / 'config.json'}", *flags))


def test_short_and_long_names_are_one_flag() -> None:
    for flags in (("--batch_size=8", "--data.batch_size=16"), ("--data.batch_size=8", "--batch_size=16")):
        assert resolved(*flags)["data"]["batch_size"] == 16


def test_keras_defaults_are_below_presets_and_flags() -> None:
    config = resolved("--keras_defaults", "--optimizer.name=rmsprop", "--batch_size=64")
    assert config["data"]["batch_size"] == 64
    optimizer = config["optimizer"]
    assert (optimizer["learning_rate"], optimizer["beta_2"], optimizer["momentum"]) == (0.001, 0.9, 0.0)
    assert (optimizer["schedule"], optimizer["warmup_epochs"]) == ("constant", 0.0)
    assert resolved("--keras_defaults")["optimizer"]["learning_rate"] == 0.01
    preset = resolved("--keras_defaults", "--preset=quick")
    assert (preset["optimizer"]["learning_rate"], preset["optimizer"]["momentum"]) == (0.2, 0.0)


@pytest.mark.parametrize("flag", ["--help", "--helpfull", "--list_presets", "--print_config"])
def test_what_only_prints_needs_no_tensorflow(flag: str) -> None:
    code = "import runpy, sys; sys.modules['tensorflow'] = sys.modules['tf_keras'] = None; sys.argv[0] = 'train'\n"
    code += "runpy.run_module('tools.train', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, flag], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "learning_rate" in done.stdout
    assert not done.stderr


def own_and_common_flags(name: str) -> tuple[list[str], list[str]]:
    """Of a command; read in a process of its own, because two commands define the same flags."""
    module = f"evenkeel.tools.{MODULES.get(name, name)}"
    code = f"import json; from {module} import COMMAND; print(json.dumps([COMMAND.own, COMMAND.common]))"
    own, common = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    return own, common


def test_help_lists_the_ten_common_flags_and_says_how_to_see_all() -> None:
    done = tool("train", "--help")
    assert done.returncode == 0
    flags = [line.strip() for line in done.stdout.splitlines() if line.startswith("  --")]
    own, common = own_and_common_flags("train")
    assert flags == [f"--{name}" for name in common]
    assert len(flags) == 10
    count = len([*options(TrainConfig), *own, *PRESET_FLAGS])
    assert done.stdout.splitlines()[-1] == f"--helpfull lists all {count} flags."


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_shows_its_usage_and_documents_its_own_flags(name: str) -> None:
    done = tool(name, "--helpfull")
    assert done.returncode == 0, done.stderr
    assert f"\n  evenkeel {name} " in done.stdout
    own, common = own_and_common_flags(name)
    for flag in (*own, *common):
        name = flag if flag in own else SHORT_NAMES.get(flag, flag)
        assert f"\n  --{name}\n      " in done.stdout, flag


def test_modules_of_a_checkout_are_commands_as_well() -> None:
    done = subprocess.run([sys.executable, "-m", "tools.train", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, tool("train", "--help").stdout)


def test_folders_of_the_user_do_not_shadow_the_package(tmp_path: pathlib.Path) -> None:
    for folder, module in (("models", "config"), ("tools", "train"), ("pipeline", "config")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
        (tmp_path / folder / f"{module}.py").write_text("raise SystemExit('the user's own module was imported')")
    for command in ([sys.executable, "-m", "evenkeel"], [str(pathlib.Path(sys.executable).parent / "evenkeel")]):
        done = subprocess.run([*command, "train", "--help"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "evenkeel train --preset=quick" in done.stdout


def test_helpfull_lists_flags_by_group_with_type_and_default() -> None:
    done = tool("train", "--helpfull")
    assert done.returncode == 0
    assert done.stdout.index("\nrun:") < done.stdout.index("\ndata:") < done.stdout.index("\noptimizer:")
    lines = done.stdout.splitlines()
    at = lines.index("  --optimizer.learning_rate")
    assert lines[at + 1] == "      peak learning rate for the global batch [float] (default: 0.1)"


def test_presets_are_printed() -> None:
    assert json.loads(tool("train", "--list_presets").stdout) == PRESETS


@pytest.mark.parametrize(
    "command", ["evenkeel train --helpfull", "evenkeel --help", "tools.train --list_presets", "benchmarks.run --help"]
)
def test_who_stops_reading_ends_a_command_without_a_word(command: str) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", *command.split()], cwd=ROOT, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_another_pipe_that_breaks_is_an_error_like_any() -> None:
    with pytest.raises(BrokenPipeError, match="to a worker"), stdout.ignore_broken_pipe():
        raise BrokenPipeError("to a worker")


def resolved(*flags: str) -> dict:
    done = tool("train", "--print_config", *flags)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_later_values_win_over_preset_config_and_flagfile(tmp_path: pathlib.Path) -> None:
    config = resolved("--preset=cifar", "--epochs=5", "--batch_size=64", "--epochs=7", "--nodata.normalize")
    assert (config["epochs"], config["data"]["batch_size"], config["data"]["normalize"]) == (7, 64, False)
    assert config["label_smoothing"] == PRESETS["cifar"]["label_smoothing"]
    saved = tmp_path / "config.json"
    saved.write_text(json.dumps(config))
    assert resolved(f"--config={saved}") == config
    assert resolved("--preset=imagenet", f"--config={saved}")["data"]["image_size"] == 32
    flagfile = tmp_path / "flags"
    flagfile.write_text("--epochs=9\n--optimizer.name=adam\n")
    fed = resolved(f"--config={saved}", f"--flagfile={flagfile}", "--epochs=11")
    assert (fed["epochs"], fed["optimizer"]["name"]) == (11, "adam")


@pytest.mark.slow
def test_a_signal_ends_a_run_with_checkpoint_and_summary_and_resume_completes_it(tmp_path: pathlib.Path) -> None:
    """SIGINT; benchmarks.endurance.chaos sends SIGTERM."""
    run = tmp_path / "run"
    flags = [*TINY, "--epochs=16", "--precision=float32", f"--model.name={SHALLOW}", "--histograms_every=0"]
    flags += ["--preflight=off"]
    command = [sys.executable, "-m", "tools.train", *flags, f"--model_dir={run}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any(line.startswith("epoch ") for line in process.stderr)  # training goes on
        os.kill(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 130
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "preempted"
    assert 0 < summary["steps"] < 16 * 15
    assert (run / "checkpoints" / f"step-{summary['steps']:08d}").is_dir()
    assert "preempted" in out
    refusal = refused(forked.run("tools.train", *flags, f"--model_dir={run}", "--optimizer.learning_rate=0.2"))
    assert "optimizer.learning_rate is 0.1 in the run, 0.2 now" in refusal
    assert "--resume" in refusal
    assert "--overwrite" in refusal
    done = forked.run("tools.train", *flags, f"--model_dir={run}", "--resume")
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "summary.json").read_text())["steps"] == 16 * 15

    evaluated = forked.run("tools.evaluate", f"--model_dir={run}")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "accuracy" in evaluated.stdout
    assert "precision" in evaluated.stdout
    assert "confusion matrix" in evaluated.stdout


@pytest.mark.slow
def test_float16_on_a_cpu_warns_and_goes_on(tmp_path: pathlib.Path) -> None:
    flags = [
        *TINY,
        "--epochs=1",
        "--precision=mixed_float16",
        f"--model.name={SHALLOW}",
        f"--model_dir={tmp_path / 'run'}",
    ]
    done = forked.run("tools.train", *flags)
    assert done.returncode == 0, done.stderr
    assert "mixed_float16 on a CPU" in done.stderr


def test_evaluate_says_what_is_missing() -> None:
    assert "--model_dir is missing" in refused(tool("evaluate"))


@pytest.mark.slow
def test_evaluate_refuses_a_directory_without_a_run(tmp_path: pathlib.Path) -> None:
    assert "no config.json" in refused(forked.run("tools.evaluate", f"--model_dir={tmp_path}"))
