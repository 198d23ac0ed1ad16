"""The documents name every flag, and what the README shows exists and runs."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import pathlib
import re
import shlex
import textwrap
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from PIL import Image

from evenkeel.__main__ import COMMANDS, MODULES
from evenkeel.benchmarks import results
from evenkeel.benchmarks.documentation import field_guide
from evenkeel.benchmarks.report import tables
from evenkeel.benchmarks.results import Result
from evenkeel.benchmarks.stability.faults import FAULTS
from evenkeel.models.config import TrainConfig
from evenkeel.models.stability import detectors
from evenkeel.models.stability.causes import CAUSES
from evenkeel.pipeline.config import PrepareConfig
from evenkeel.pipeline.sources import shapes
from evenkeel.tools.flags import options
from tests import forked
from tests.short_measurements import shorten

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("config", [TrainConfig, PrepareConfig])
def test_every_flag_is_listed_with_its_default_and_help(config: type) -> None:
    listed = (ROOT / "docs" / "flags.md").read_text()
    for option in options(config):
        default = "" if option.default == "" else f", {option.default}"
        row = f"| `--{option.name}` | {option.kind.__name__}{default} | {option.help.replace('|', chr(92) + '|')} |"
        assert row in listed, option.name


@pytest.mark.parametrize(
    ("document", "table", "committed"),
    [
        ("README.md", tables.headline_table, "speed.json"),
        ("benchmarks/README.md", tables.loading_table, "speed.json"),
        ("docs/stability.md", tables.stability_table, "stability.json"),
    ],
)
def test_tables_are_those_of_committed_results(
    document: str, table: Callable[[Sequence[Result]], str], committed: str
) -> None:
    found = results.read(ROOT / "benchmarks" / "results" / committed).results
    assert table(found) in (ROOT / document).read_text()


def test_what_the_readme_says_of_the_stability_suite_is_in_its_committed_result() -> None:
    found = tables.index_suite(results.read(ROOT / "benchmarks" / "results" / "stability.json").results, "stability")
    of = {metric: found["heldout", metric].median for case, metric in found if case == "heldout"}
    rival = {metric: found["heldout/autotrainer", metric].median for metric in ("recall", "recovered_persistent")}
    said = " ".join(README.split())
    assert of["false_alarm_rate"] == 0
    assert of["recovered_transient"] == 1
    for claim in (
        f"{of['recall']:.0%} of faulty runs are detected, with no false alarm in {of['clean_runs']:.0f} sound runs",
        f"the right cause first in {of['cause_top1']:.0%} of cases",
        f"cures {of['recovered_persistent']:.0%} of the persistent faults",
        f"AutoTrainer's rules detect {rival['recall']:.0%} and cure {rival['recovered_persistent']:.0%}",
        f"The guard costs {found['all', 'watch_overhead'].median:+.1%} of CPU time",
    ):
        assert claim in said


def test_pictures_and_links_exist() -> None:
    targets = re.findall(r"\]\(([^)#\s]+)|src=\"([^\"]+)\"", README)
    targets = [link or picture for link, picture in targets if "://" not in link]
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


@pytest.mark.slow
def test_the_users_own_script_runs_and_writes_histograms(tmp_path: pathlib.Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "your_own.md").read_text(), re.DOTALL)
    script = next(block for block in blocks if "model.fit" in block)
    done = forked.run(run_code, script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert list((tmp_path / "runs" / "mine" / "train").glob("events*"))


def test_the_users_own_model_is_one_that_trains(tmp_path: pathlib.Path) -> None:
    from evenkeel.models.config import ModelConfig
    from evenkeel.models.networks.factory import create_network

    text = (ROOT / "docs" / "your_own.md").read_text()
    block = next(b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def tiny" in b)
    path = tmp_path / "mine.py"
    path.write_text(block)
    assert create_network(ModelConfig(name=f"{path}:tiny"), (32, 32, 3), 10).output_shape == (None, 10)


def test_the_table_of_scaling_is_what_its_code_prints() -> None:
    text = (ROOT / "docs" / "scaling.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = forked.run(run_code, code)
    assert len(done.stdout.splitlines()) == 15
    assert done.stdout in text


def test_what_documents_link_to_exists() -> None:
    for document in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
            assert "://" in target or (document.parent / target).exists(), (document.name, target)


def shown(document: str, first: str) -> str:
    """The indented code of a document that begins with that line."""
    lines = (ROOT / "docs" / document).read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip().startswith(first))
    indent = len(lines[start]) - len(lines[start].lstrip())
    block = itertools.takewhile(lambda line: not line or line.startswith(" " * indent), lines[start:])
    return textwrap.dedent("\n".join(block))


def test_the_augmentation_and_the_detector_that_the_guide_to_the_code_shows_work() -> None:
    from evenkeel.models.stability import detectors
    from evenkeel.pipeline.augment import color
    from tests.traces import healthy

    invert, restless = dict(vars(color)), dict(vars(detectors))
    exec(shown("code.md", "def invert"), invert)
    exec(shown("code.md", "def restless"), restless)
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 2, 3), np.uint8)
    draws = tf.constant([[0.1], [0.9], [0.4], [0.6]])
    changed = invert["invert"](0.5)(tf.constant(images), draws).numpy()
    np.testing.assert_array_equal(
        changed, np.where(np.array([1, 0, 1, 0])[:, None, None, None] > 0, 255 - images, images)
    )
    assert invert["invert"](0.0) is None
    trace = healthy()
    assert not restless["restless"](trace).on.any()
    norm = np.where(np.arange(len(trace.steps)) % 2 == 0, 1.0, 3.0)
    assert restless["restless"](dataclasses.replace(trace, gradient_norm=norm)).on[30:].all()


def test_the_field_guide_has_every_cause() -> None:
    """A picture of each, and no link to a heading that is not there."""
    text = (ROOT / "docs" / "unstable.md").read_text()
    pictures = re.findall(r"!\[[^]]*\]\(unstable/(\w+)\.png\)", text)
    assert sorted([*field_guide.EXAMPLES, "replica_batch"]) == sorted(CAUSES), "of replicas there is nothing to see"
    assert set(field_guide.EXAMPLES) == set(pictures)
    for cause, shown in field_guide.EXAMPLES.items():
        assert cause in FAULTS[shown.fault].other_causes or FAULTS[shown.fault].cause == cause
    said = re.findall(r"^\* \*\*evenkeel\*\*.*?(?=^\* |^$)", text, re.MULTILINE | re.DOTALL)
    checks = "".join(path.read_text() for path in (ROOT / "models" / "preflight").glob("*.py"))
    known = {*re.findall(r'Finding\(\s*"(\w+)"', checks), *detectors.STANDALONE, *detectors.CORROBORATED}
    assert {name for lines in said for name in re.findall(r"(?<!\*)\*(\w+)\*(?!\*)", lines)} - {"evenkeel"} <= known
    assert len(said) == len(CAUSES)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory with rendered images, photos/CLASS/NUMBER.jpg."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(shapes.CLASSES[:3]):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(40):
            image = Image.fromarray(shapes.render(label, 64, rng))
            image.save(tmp_path / "photos" / name / f"{number:03d}.jpg", quality=95)
    return tmp_path


# Child processes of the commands must not repeat measurements on a busy machine, and a turn has one step.
IN_CHILD_PROCESSES = """
import dataclasses
from evenkeel.benchmarks import timing
timing.MAX_ROUNDS_FACTOR = 1
from evenkeel.benchmarks.peers import tasks
tasks.TASKS["step32"] = dataclasses.replace(tasks.TASKS["step32"], steps=1)
"""
BLOCKS = {"getting_started.md": 5, "input.md": 2, "benchmarks_in_ci.md": 1}  # that are marked with `run`


def run_code(code: str) -> None:
    """Runs a script in a process of its own."""
    exec(code, {"__name__": "__main__"})


def run_blocks(document: str, directory: pathlib.Path) -> str:
    """Runs the blocks of a document that are marked with `run`, one after another; the output of the last command."""
    text = (ROOT / "docs" / document).read_text()
    blocks = re.findall(r"```(bash|python) run\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == BLOCKS[document]
    (directory / "sitecustomize.py").write_text(IN_CHILD_PROCESSES)
    environ = {"PYTHONPATH": f"{directory}:{ROOT}", "EVENKEEL_CACHE": str(directory / "cache")}
    output = ""
    for kind, code in blocks:
        for command in [code] if kind == "python" else code.replace("\\\n", " ").splitlines():
            if kind == "python":
                done = forked.run(run_code, command, cwd=directory, **environ)
            else:
                module, *arguments = module_and_arguments(command)
                done = forked.run(briefly, module, *arguments, cwd=directory, **environ)
            assert done.returncode == 0, (command, done.stderr[-2000:])
            output = done.stdout
    return output


def module_and_arguments(command: str) -> list[str]:
    """The module that a documented command runs, and the command's arguments."""
    program, *arguments = shlex.split(command, comments=True)
    if program == "evenkeel":
        return ["evenkeel", *arguments]
    assert (program, arguments[0]) == ("python", "-m"), command
    return arguments[1:]


def documented_commands() -> list[str]:
    """Every command of this project in the README and the guides, without its environment variables."""
    commands = []
    for path in (ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text().replace("\\\n", " ")
        for line in text.splitlines():
            code = re.findall(r"`([^`]+)`", line) if not re.match(r" {4,}|evenkeel |python -m |exec ", line) else [line]
            for each in code:
                found = re.search(r"(?:^|\s|')(evenkeel|python -m benchmarks[\w.]*) ([^`']*)$", each.strip())
                if found and "--" in found[2] and "COMMAND" not in found[2]:
                    commands.append(f"{found[1]} {found[2]}".split("  #")[0].split(" $RESUME")[0].strip())
    return list(dict.fromkeys(commands))


@pytest.mark.slow
@pytest.mark.parametrize("command", documented_commands())
def test_the_flags_of_every_documented_command_exist(command: str) -> None:
    module, *arguments = module_and_arguments(command)
    if module == "evenkeel":
        if arguments[0].startswith("--"):
            return  # `evenkeel --help`, which tests of the command run
        name = arguments.pop(0)
        assert name in COMMANDS, command
        module = f"evenkeel.tools.{MODULES.get(name, name)}"
    elif (ROOT / module.replace(".", "/")).is_dir():
        module = f"{module}.__main__"
    module = module if module.startswith("evenkeel") else f"evenkeel.{module}"
    flags = [argument for argument in arguments if argument not in ("--help", "--helpfull")]
    done = forked.run(parse_flags, module, *flags)
    assert done.returncode == 0, done.stderr[-500:]


def parse_flags(module: str, *arguments: str) -> None:
    """Parses the arguments as the module does, in a process of its own, where no other module has defined flags."""
    imported = importlib.import_module(module)
    # `benchmarks.peers` defines its flags in a function of its own, so that its module can be imported in tests.
    define = vars(imported).get("define_flags")
    if define and define.__module__ == module:
        define()
    flags.FLAGS([module, *arguments])


def briefly(module: str, *arguments: str) -> None:
    """Runs a module in a process of its own, with short measurements; `train` on a network of few filters."""
    shorten()
    narrow = ("--model.width=4",) if arguments[:1] == ("train",) else ()
    forked.main(module, *arguments, *narrow)


@pytest.mark.slow
def test_every_command_from_a_folder_to_a_served_model_runs(photos: pathlib.Path) -> None:
    answers = [line.split() for line in run_blocks("getting_started.md", photos).splitlines()]
    assert len(answers) == 3
    assert {name for _, name, _ in answers} <= set(shapes.CLASSES[:3])


@pytest.mark.slow
def test_every_command_of_the_guide_to_the_input_runs(photos: pathlib.Path) -> None:
    said = run_blocks("input.md", photos)
    assert "bound" in said
    assert (photos / "profile.json").exists()


@pytest.mark.slow
def test_every_command_of_the_guide_to_benchmarks_runs(tmp_path: pathlib.Path) -> None:
    run_blocks("benchmarks_in_ci.md", tmp_path)
    for name in ("benchmarks-lower.json", "bmf.json", "history.html"):
        assert (tmp_path / name).stat().st_size > 0
