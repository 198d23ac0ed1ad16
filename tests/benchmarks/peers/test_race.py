import contextlib
import importlib
import json
import os
import select
import subprocess
import sys
import time

import pytest

from evenkeel.benchmarks.peers import environments, tasks
from evenkeel.benchmarks.peers.environments import UnavailableError
from evenkeel.benchmarks.peers.race import (
    Turn,
    UnequalWorkError,
    Worker,
    calibrate_steps,
    check_equal_work,
    find_dissimilar,
    race,
)
from evenkeel.benchmarks.peers.tasks import PEERS_DIRECTORY, TASK_FILES, Task, compare_peers
from evenkeel.benchmarks.results import ROOT, read
from evenkeel.benchmarks.timing import Sample
from tests import forked

# A task file; each test sets PARAMETERS and BODY.
TASK = """
import time

def prepare(threads):
    print("noise on standard output, as frameworks make it")

    def run(steps):
        BODY
        return {"loss": 1.5}

    return {"same": {"trainable parameters": PARAMETERS}, "images_per_step": 4, "about": f"{threads} threads"}, run
"""
BURN = "end = time.process_time() + 0.02 * steps\n        while time.process_time() < end: pass"


def write_task(folder, name, parameters=10, body=BURN):
    path = folder / f"{name}.py"
    path.write_text(TASK.replace("PARAMETERS", str(parameters)).replace("BODY", body))
    return path


@contextlib.contextmanager
def start_worker(path):
    with Worker([sys.executable, str(PEERS_DIRECTORY / "worker.py"), str(path), "2"], {}) as worker:
        worker.start(timeout_seconds=30)
        yield worker


def test_a_worker_reports_its_facts_and_measures_its_own_steps(tmp_path):
    with start_worker(write_task(tmp_path, "step_fake")) as worker:
        assert worker.facts == {
            "same": {"trainable parameters": 10},
            "images_per_step": 4,
            "about": "2 threads",
        }
        one, five = worker.run(1), worker.run(5)
    assert 0.02 <= one.sample.cpu_seconds < 0.09
    assert 0.1 <= five.sample.cpu_seconds < 0.2
    assert five.sample.wall_seconds >= 0.99 * five.sample.cpu_seconds
    assert worker.seen == [{"loss": 1.5}] * 2
    assert worker._process.returncode == 0


def burn_cpu(seconds: float) -> None:
    """Spends CPU time in this process while a worker waits in its own."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_cpu_time_of_a_waiting_worker_is_measured(tmp_path):
    with start_worker(write_task(tmp_path, "quiet", body="pass")) as worker:
        worker.run(1)
        burn_cpu(0.3)
        idle = worker.run(1).idle
        assert idle.wall_seconds >= 0.3
        assert idle.cpu_seconds < 0.1
    spin = """
        import threading
        def spin():
            while True: pass
        threading.Thread(target=spin, daemon=True).start()"""
    with start_worker(write_task(tmp_path, "restless", body=spin)) as worker:
        worker.run(1)
        burn_cpu(0.5)
        assert worker.run(1).idle.cpu_seconds > 0.1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ValueError('the loss is\\nnan')", "ValueError: the loss is nan"),
        ("import os; os.write(2, b'killed by a bug'); os._exit(9)", "code 9: killed by a bug"),
    ],
)
def test_a_failing_worker_gives_the_reason(tmp_path, body, reason):
    with (
        start_worker(write_task(tmp_path, "broken", body=body)) as worker,
        pytest.raises(UnavailableError, match=reason),
    ):
        worker.run(1)


def test_a_hanging_worker_is_ended(tmp_path):
    with start_worker(write_task(tmp_path, "asleep", body="import threading; threading.Event().wait()")) as worker:
        with pytest.raises(UnavailableError, match="no answer in 0 s"):
            worker.run(1, timeout_seconds=0.1)
        worker._process.kill()
    assert worker._process.returncode is not None


def test_a_worker_that_cannot_start_gives_the_reason(tmp_path):
    path = tmp_path / "task.py"
    path.write_text("import no_such_framework")
    missing = pytest.raises(UnavailableError, match="ModuleNotFoundError: No module named 'no_such_framework'")
    with missing, start_worker(path):
        pass
    with (
        pytest.raises(UnavailableError, match="cannot be run: No such file"),
        Worker(["/no/such/python"], {}) as worker,
    ):
        worker.start()


CHILD = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\nsys.stdin.read()"


def test_the_time_of_living_children_counts(tmp_path):
    body = f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
        kept.append(child)"""
    path = write_task(tmp_path, "parent", body=body)
    path.write_text("kept = []\n" + path.read_text())
    with start_worker(path) as worker:
        first, second = worker.run(1).sample, worker.run(1).sample
    assert 0.28 < first.cpu_seconds < 0.6
    assert 0.28 < second.cpu_seconds < 0.6  # the first child's time is not counted again


SPIN = "while True: pass"
AHEAD = """
import subprocess, sys

def prepare(threads):
    child = subprocess.Popen([sys.executable, "-c", {spin!r}])
    facts = {{"same": {{}}, "images_per_step": 1, "about": str(child.pid), "works_ahead": True}}
    return facts, lambda steps: {{}}
"""


def ends_soon(pid: int) -> bool:
    """Whether a process ends within some seconds; it need not be a child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10)[0])
    finally:
        os.close(descriptor)


def stops_soon(pid: int) -> bool:
    """Whether a process is stopped (SIGSTOP) within some seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == "T":
                return True
    return False


def test_a_worker_that_works_ahead_is_stopped_between_turns_with_its_children_which_end_with_it(tmp_path):
    path = tmp_path / "ahead.py"
    path.write_text(AHEAD.format(spin=SPIN))
    with start_worker(path) as worker:
        worker.run(1)
        burn_cpu(0.5)
        assert worker.run(1).idle.cpu_seconds < 0.1
        child = int(worker.facts["about"])
    assert ends_soon(child)


def test_a_stopped_worker_ends_when_the_race_is_killed(tmp_path):
    path = tmp_path / "ahead.py"
    path.write_text(AHEAD.format(spin=SPIN))
    code = f"""
import sys
from evenkeel.benchmarks.peers.race import Worker
with Worker([sys.executable, {str(PEERS_DIRECTORY / "worker.py")!r}, {str(path)!r}, "2"], {{}}) as worker:
    worker.start()
    print(worker._process.pid, worker.facts["about"], flush=True)
    sys.stdin.read()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        assert all(stops_soon(pid) for pid in pids)
        process.kill()
    assert all(ends_soon(pid) for pid in pids)


def test_the_calibration_uses_the_rate_after_the_buffers_are_empty():
    class Buffered:
        """A worker with 100 steps in its buffer; every further step takes 0.01 s."""

        buffer, requested = 100, 0

        def run(self, steps):
            missing = max(0, steps - self.buffer)
            self.buffer, self.requested = max(0, self.buffer - steps), self.requested + steps
            return Turn(Sample(0.01 * missing, 0.01 * missing), Sample(0.0, 1.0), 0.0)

    buffered = Buffered()
    assert calibrate_steps(buffered, seconds=2.0) == 200
    assert buffered.requested < 1000


def test_a_peer_with_different_images_is_reported():
    def with_statistics(mean, deviation):
        worker = Worker([], {})
        worker.facts = {"same": {}, "alike": {"mean": mean, "deviation": deviation}}
        return worker

    workers = {
        "evenkeel": with_statistics(111.0, 66.0),
        "torch": with_statistics(112.5, 65.0),
        "black": with_statistics(0.0, 0.0),
    }
    assert find_dissimilar(workers) == {"black": "its mean is 0.0, but the median of all peers is 111.0"}
    assert list(find_dissimilar({**workers, "broken": with_statistics(111.0, float("nan"))})) == ["black", "broken"]
    plain = Worker([], {})
    plain.facts = {"same": {}}
    assert find_dissimilar({"evenkeel": plain}) == {}


class Scripted:
    """A worker with given turns; other programs keep `noise` cores busy, turn by turn."""

    def __init__(self, log, name, noise=(), fails_at=None):
        self.log, self.name, self.noise, self.fails_at, self.count = log, name, dict(enumerate(noise)), fails_at, -1

    def run(self, steps):
        self.count += 1
        if self.count == self.fails_at:
            raise UnavailableError("it broke")
        self.log.append(self.name)
        return Turn(Sample(float(self.count), 1.0), Sample(0.01, 2.0), self.noise.get(self.count, 0.0))


def run_race(workers, rounds, parts=1):
    failures = []
    outcome = race(
        workers,
        steps=dict.fromkeys(workers, 1),
        rounds=rounds,
        on_failure=lambda *entry: failures.append(entry),
        parts=parts,
    )
    return outcome, failures


def test_peers_alternate_after_a_turn_that_does_not_count():
    log: list[str] = []
    outcome, failures = run_race({name: Scripted(log, name) for name in "abc"}, rounds=4)
    assert "".join(log) == "abc" + "abccbaabccba"
    assert [turn.sample.cpu_seconds for turn in outcome.turns["b"]] == [1.0, 2.0, 3.0, 4.0]
    assert (outcome.rounds_run, outcome.others_cores, failures) == (4, 0.0, [])
    assert outcome.idle_cores("a") == pytest.approx(0.005)


def test_parts_of_turns_alternate_and_are_added_up():
    log: list[str] = []
    outcome, _ = run_race({name: Scripted(log, name) for name in "ab"}, rounds=2, parts=3)
    assert "".join(log) == "abbaab" + "abbaab" + "baabba"
    assert [turn.sample for turn in outcome.turns["a"]] == [Sample(3 + 4 + 5, 3.0), Sample(6 + 7 + 8, 3.0)]
    assert outcome.turns["a"][0].idle.wall_seconds == 6.0
    # Other programs kept 0.09 cores busy in a third of the turn.
    noisy, _ = run_race({"a": Scripted([], "a", noise=[0, 0, 0, 0.09, 0, 0])}, rounds=1, parts=3)
    assert noisy.others_cores == pytest.approx(0.03)


def test_a_worker_that_fails_between_parts_leaves_no_partial_turn():
    outcome, failures = run_race({"a": Scripted([], "a"), "b": Scripted([], "b", fails_at=4)}, rounds=2, parts=3)
    assert failures == [("b", "it broke")]
    assert list(outcome.turns) == ["a"]
    assert [turn.sample.wall_seconds for turn in outcome.turns["a"]] == [3.0, 3.0]


def test_a_disturbed_round_is_repeated_for_all_workers():
    log: list[str] = []
    # Turn 0 is the warm-up; turns 2 and 3 of b are disturbed.
    workers = {"a": Scripted(log, "a"), "b": Scripted(log, "b", noise=[9.0, 0.0, 0.8, 0.5])}
    outcome, _ = run_race(workers, rounds=3)
    assert outcome.rounds_run == 5
    assert [turn.sample.cpu_seconds for turn in outcome.turns["a"]] == [1.0, 4.0, 5.0]
    assert [turn.sample.cpu_seconds for turn in outcome.turns["b"]] == [1.0, 4.0, 5.0]


def test_without_quiet_rounds_the_quietest_count_and_the_noise_is_reported():
    noise = [0.0, *(0.9 - 0.01 * turn for turn in range(50))]
    outcome, _ = run_race({"a": Scripted([], "a", noise)}, rounds=3)
    assert outcome.rounds_run == 12
    assert [turn.sample.cpu_seconds for turn in outcome.turns["a"]] == [10.0, 11.0, 12.0]
    assert outcome.others_cores == pytest.approx(0.81)


def test_a_worker_that_fails_leaves_the_race_and_the_others_continue():
    log: list[str] = []
    outcome, failures = run_race({"a": Scripted(log, "a"), "b": Scripted(log, "b", fails_at=2)}, rounds=3)
    assert failures == [("b", "it broke")]
    assert list(outcome.turns) == ["a"]
    assert len(outcome.turns["a"]) == 3


def test_unequal_networks_are_an_error_of_one_line():
    def facts(parameters):
        worker = Worker([], {})
        worker.facts = {"same": {"images a step": 128, "trainable parameters": parameters}}
        return worker

    check_equal_work({"evenkeel": facts(10), "torch": facts(10)})
    with pytest.raises(UnequalWorkError) as error:
        check_equal_work({"evenkeel": facts(10), "torch": facts(12)})
    assert str(error.value) == (
        "not compared: trainable parameters must be equal but differ (evenkeel 10, torch 12): make the work equal."
    )


@pytest.mark.slow
def test_a_comparison_from_start_to_end(tmp_path, monkeypatch, capsys):
    """One peer takes twice the CPU time; one cannot be installed and one has no task file: both are skipped."""
    write_task(tmp_path, "quick_evenkeel")
    write_task(tmp_path, "quick_rival", body=BURN.replace("0.02", "0.04"))
    monkeypatch.setattr(tasks, "PACKAGES", {"ghost": ("no-such-package",)})
    task = Task(("evenkeel", "rival", "ghost", "absent"), steps=4, folder=tmp_path)
    comparison = compare_peers("quick", rounds=2, directory=tmp_path / "environments", task=task)
    medians = {(r.case, r.metric): r.median for r in comparison.results}
    assert set(medians) == {
        (f"{peer}/quick", metric)
        for peer in ("evenkeel", "rival")
        for metric in ("cpu_ms_per_image", "images_per_second")
    }
    # 0.02 s per step of 4 images.
    assert medians["evenkeel/quick", "cpu_ms_per_image"] == pytest.approx(5.0, rel=0.2)
    assert medians["rival/quick", "cpu_ms_per_image"] == pytest.approx(10.0, rel=0.2)
    assert {(r.suite, r.better, r.unit) for r in comparison.results} == {
        ("peers", "lower", "ms"),
        ("peers", "higher", "images/s"),
    }
    reasons = {entry.case: entry.reason for entry in comparison.skipped}
    assert set(reasons) == {"ghost/quick", "absent/quick"}
    assert reasons["ghost/quick"] == "no-such-package is neither in the extra peers nor installed here"
    assert "FileNotFoundError" in reasons["absent/quick"]
    assert "ghost/quick: skipped: no-such-package" in capsys.readouterr().out
    rival = next(line for line in comparison.summary.splitlines() if line.startswith("rival"))
    assert 1.6 < float(rival.split()[1]) < 2.4
    assert set(comparison.about["peers"]) == {"evenkeel", "rival"}


def test_in_a_comparison_of_unequal_work_all_peers_are_skipped(tmp_path):
    write_task(tmp_path, "quick_evenkeel", parameters=10)
    write_task(tmp_path, "quick_rival", parameters=11)
    task = Task(("evenkeel", "rival"), steps=1, folder=tmp_path)
    comparison = compare_peers("quick", rounds=1, directory=tmp_path, task=task)
    assert comparison.results == []
    assert [entry.case for entry in comparison.skipped] == ["evenkeel/quick", "rival/quick"]
    assert "evenkeel 10, rival 11" in comparison.skipped[0].reason


def test_requirements_are_read_from_the_projects_metadata():
    assert environments.requirements(("torch",)) == ["torch==2.13.0"]
    keras, tensorflow = environments.requirements(("keras", "tensorflow"))
    assert keras.startswith("keras>=3")
    assert tensorflow == f"tensorflow=={environments.importlib.metadata.version('tensorflow')}"


def test_an_environment_is_installed_once_and_again_when_its_requirements_change(tmp_path, monkeypatch):
    calls = []

    def run(*command):
        calls.append(command)
        if "venv" in command:
            (tmp_path / "torch" / "bin").mkdir(parents=True)
            (tmp_path / "torch" / "bin" / "python").touch()
        elif fails:
            raise UnavailableError("pip failed: ERROR: no matching distribution")

    monkeypatch.setattr(environments, "_run", run)
    logged: list[str] = []
    fails = True
    with pytest.raises(UnavailableError, match="no matching distribution"):
        environments.install_environment("torch", ("torch",), tmp_path, logged.append)
    fails = False
    for _ in range(2):
        python = environments.install_environment("torch", ("torch",), tmp_path, logged.append)
    assert python == tmp_path / "torch" / "bin" / "python"
    assert ["venv" in command for command in calls] == [True, False] * 2
    assert logged == [f"torch: installing torch==2.13.0 into {tmp_path / 'torch'}"] * 2
    monkeypatch.setattr(environments, "requirements", lambda packages: ["torch==9"])
    environments.install_environment("torch", ("torch",), tmp_path, logged.append)
    assert len(calls) == 6


def test_the_reason_is_pips_error_message(tmp_path):
    with pytest.raises(UnavailableError, match=r"pip failed: ERROR: .*no-such-package"):
        environments._run(
            sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(tmp_path), "no-such-package"
        )


def run_command(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "benchmarks.peers", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--only=step23", "only ('step23') must be one of step32"),
        ("--only=", "--only is empty"),
        ("--rounds=4", "rounds (4) must be at least 5"),
        ("--rounds=many", "--rounds=many"),
        ("--onyl=step32", "Unknown command line flag 'onyl'"),
        ("step32", "unexpected argument 'step32'"),
        ("--loaders=dalli", "loaders ('dalli') must be one of evenkeel"),
        ("--loaders=dali", "loaders (dali): task step32 supports none of these; give some of evenkeel, torch"),
        ("--output=/no/such/folder/result.json", "output (/no/such/folder/result.json) must be a file in a directory"),
    ],
)
def test_a_bad_flag_ends_in_one_line_and_exit_code_2(argument, message):
    done = run_command(argument)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_help_loads_no_framework():
    code = (
        "import sys, evenkeel.benchmarks.peers; print({'tensorflow', 'torch', 'keras', 'tf_keras'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stderr
    assert "--only\n      tasks to run, of: step32" in run_command("--help").stdout


@pytest.mark.slow
def test_the_command_writes_its_results_and_fails_without_evenkeel(tmp_path):
    """Runs the real main on two fake peers, in its own process, because it changes TASKS."""
    write_task(tmp_path, "quick_evenkeel")
    write_task(tmp_path, "quick_rival")
    code = """
import sys, pathlib
from evenkeel.benchmarks import command
from evenkeel.benchmarks.peers import __main__ as cli, tasks
tasks.TASKS["quick"] = tasks.Task(("evenkeel", "rival"), 1, folder=pathlib.Path(sys.argv.pop()))
cli.define_flags()
command.run(cli.main)
"""
    output = tmp_path / "result.json"
    command = [sys.executable, "-c", code, "--only=quick", f"--output={output}", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    report = read(output)
    assert {(r.case, len(r.samples)) for r in report.results} == {("evenkeel/quick", 5), ("rival/quick", 5)}
    assert report.skipped == []
    assert report.environment["peers"]["quick"]["rounds_run"] >= 5
    assert "CPU time / evenkeel's" in done.stdout
    (tmp_path / "quick_evenkeel.py").unlink()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 4
    assert [entry.case for entry in read(output).skipped] == ["evenkeel/quick"]
    assert json.loads(output.read_text())["skipped"][0]["reason"].startswith("FileNotFoundError")


def print_own_parameters():
    """Runs in its own process, because the task file finds its modules by the path."""
    sys.path.insert(0, str(TASK_FILES))
    print(importlib.import_module("step32_evenkeel").parameters())


@pytest.mark.slow
def test_the_networks_of_step32_are_equal():
    """Trainable parameters, against the count by hand; of torch only if it is installed."""
    w = 32
    convolutions = [(3, w), (w, 2 * w), (2 * w, 4 * w), (4 * w, 8 * w)]
    expected = sum(9 * inputs * outputs + 2 * outputs for inputs, outputs in convolutions) + 8 * w * 10 + 10
    pythons = {"keras": sys.executable}
    torch = environments.default_directory() / "torch" / "bin" / "python"
    if (torch.parents[1] / "requirements.txt").is_file():
        pythons["torch"] = str(torch)
    code = f"import sys; sys.path.insert(0, {str(TASK_FILES)!r}); import step32_PEER; print(step32_PEER.parameters())"
    own = forked.run(print_own_parameters)
    assert own.stdout.split()[-1:] == [str(expected)], own.stderr[-500:]
    running = {
        peer: subprocess.Popen(
            [python, "-c", code.replace("PEER", peer)],
            env=tasks.peer_environment(peer),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for peer, python in pythons.items()
    }
    for peer, process in running.items():
        out, error = process.communicate(timeout=120)
        assert out.split()[-1:] == [str(expected)], f"{peer}: {error[-500:]}"


def test_every_task_has_the_files_of_its_peers():
    for name, task in tasks.TASKS.items():
        assert task.peers[0] == tasks.OWN_PEER
        for peer in task.peers:
            assert (task.folder / task.file.format(task=name, peer=peer)).is_file()
            # The other peers run in the project's own environment.
            assert peer in (tasks.OWN_PEER, "tfdata_naive", "tfds") or peer in tasks.PACKAGES


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu avx2 sse", False), ("avx512_bf16 sse", True), ("amx_bf16", True)]
)
def test_step32_takes_bfloat16_only_if_the_processor_computes_in_it(tmp_path, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    code = (
        f"import sys, pathlib; sys.path.insert(0, {str(TASK_FILES)!r}); import step_precision;"
        f" print(step_precision.has_bfloat16(pathlib.Path({str(tmp_path / 'cpuinfo')!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(expected)
