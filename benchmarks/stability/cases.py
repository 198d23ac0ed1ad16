"""Runs the cases of the stability suite and returns their values for the journal.

    run_case = CaseRunner(photos="/data/photos", scratch="scratch")
    values = run_case(Case("faulty", "rate_x30", "cnn", "shapes", seed=2))

The kinds of cases are:

* clean: a run without a fault, with telemetry.
* faulty: a run with a persistent fault, with telemetry.
* diagnosis: the diagnosis of the faulty run by the doctor, or of the clean run if there is no fault.
* fixed: the faulty run with the fix of the doctor.
* random: the faulty run with random changes, for as much CPU time as the diagnosis took.
* autotrainer: the faulty run with AutoTrainer's repairs.
* struck: a run with a transient fault and a guard that only watches.
* answered: a run with a transient fault and a guard that acts.
* rate: a clean run with one of `LEARNING_RATES`.
* overhead: the CPU time that a guard adds to a clean run.
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any, NamedTuple

import numpy as np

from evenkeel.benchmarks import statistics
from evenkeel.benchmarks.stability import baselines, faults, networks, recipes, split
from evenkeel.models.config import TrainConfig, with_options
from evenkeel.models.stability import detectors
from evenkeel.pipeline.config import DataConfig
from evenkeel.pipeline.errors import UsageError

VALIDATIONS_PER_RUN = 5  # the parts between validations replace epochs in rules that need several epochs
MAX_COMPILED_MODELS = 24  # enough for all changes to one fault
PLATEAU_PATIENCE = 2  # parts; with the default of 10, ReduceLROnPlateau would never act in a run of five parts
LEARNING_RATES = tuple(float(f"{rate:.3g}") for rate in np.geomspace(1e-3, 10, 9))


class Case(NamedTuple):
    """A case of the suite.

    Attributes:
      kind: a kind that the docstring of the module lists.
      fault: a key of `faults.FAULTS`. A clean case runs the clean twin of this fault; "" is the plain clean run.
      network: a name in `networks.NETWORKS` or `recipes.RECIPES`.
      data: a name in `data_sets.DATA_SETS`; "memory" in an overhead case.
      seed: seed of the run; in an overhead case, the number of the pair of turns.
      learning_rate: learning rate of a rate case; otherwise 0.
    """

    kind: str
    fault: str
    network: str
    data: str
    seed: int
    learning_rate: float = 0.0

    @property
    def name(self) -> str:
        """The key in the journal: KIND/FAULT/NETWORK/DATA/SEED, followed by /RATE in a rate case."""
        return "/".join(map(str, self)).removesuffix("/0.0")

    @classmethod
    def from_name(cls, name: str) -> Case:
        kind, fault, network, data, seed, *learning_rate = name.split("/")
        return cls(kind, fault, network, data, int(seed), *map(float, learning_rate))


class CaseRunner:
    """Runs cases in this process. Each model is compiled once for all cases that can share it."""

    def __init__(self, photos: str, scratch: str) -> None:
        """`photos` is the source of the data set "photos"; files are written below the directory `scratch`."""
        from evenkeel.models.doctor.replay import ReplayEngine

        self._photos, self._scratch = photos, scratch
        self._engine = ReplayEngine(max_models=MAX_COMPILED_MODELS)
        self._data_configs: dict[str, DataConfig] = {}
        self._diagnoses: dict[Case, dict[str, Any]] = {}
        self._overhead_turns: dict[str, Any] = {}
        self._runners = {
            "clean": self._run_clean,
            "faulty": self._run_faulty,
            "rate": self._run_rate,
            "diagnosis": self._diagnose,
            "fixed": self._run_fixed,
            "random": self._run_random,
            "autotrainer": self._run_autotrainer,
            "struck": self._run_struck,
            "answered": self._run_answered,
            "overhead": self._measure_overhead,
        }

    def __call__(self, case: Case) -> dict[str, Any]:
        """Runs a case and returns its values, which JSON can hold."""
        start = time.process_time()
        values = self._runners[case.kind](case)
        if case.kind == "diagnosis":
            self._diagnoses = {case: values}  # for later cases of the same group
        return {**values, "cpu_seconds": round(time.process_time() - start, 3)}

    # Configurations.

    def clean_config(self, case: Case) -> TrainConfig:
        """Returns the configuration of the clean twin."""
        from evenkeel.benchmarks.stability import corruptions, data_sets

        if case.data not in self._data_configs:
            self._data_configs[case.data] = data_sets.write_data_set(case.data, self._photos)
        data = self._data_configs[case.data]
        if case.network in recipes.RECIPES:
            images = corruptions.count_training_images(data)
            config = recipes.recipe_config(case.network, data, images, case.seed)
        else:
            config = networks.clean_config(case.network, data, case.seed)
        return faults.FAULTS[case.fault].twin(config) if case.fault else config

    def faulty_config(self, case: Case) -> TrainConfig:
        """Returns the configuration with the persistent fault."""
        return faults.FAULTS[case.fault].apply(self.clean_config(case))

    # Runs with telemetry.

    def _run_clean(self, case: Case) -> dict[str, Any]:
        return self._run_and_check(self.clean_config(case))

    def _run_faulty(self, case: Case) -> dict[str, Any]:
        return self._run_and_check(self.faulty_config(case))

    def _run_rate(self, case: Case) -> dict[str, Any]:
        clean = self.clean_config(case)
        optimizer = dataclasses.replace(clean.optimizer, learning_rate=case.learning_rate)
        return self._run_and_check(dataclasses.replace(clean, optimizer=optimizer))

    def _run_and_check(self, config: TrainConfig) -> dict[str, Any]:
        """Trains a whole run. Returns its results and the findings of preflight, the detectors and the baselines."""
        findings = self._run_preflight(config)
        run = self._train(config)
        return {**self._summarize(run), "findings": [finding.check for finding in findings if not finding.ok]}

    def _run_preflight(self, config: TrainConfig) -> list[Any]:
        from evenkeel.models.preflight.preflight import run_checks

        return run_checks(config, self._engine.load_data(config), self._engine.devices)

    def _train(self, config: TrainConfig) -> Any:
        from evenkeel.models.training.batches import count_steps_per_epoch

        run = self._engine.begin(config)
        steps = count_steps_per_epoch(config, run.data) * config.epochs
        ends = np.linspace(0, steps, VALIDATIONS_PER_RUN + 1).round().astype(int)
        for part_steps in np.diff(ends):
            if part_steps:
                self._engine.advance(run, int(part_steps))
                self._engine.validate(run)
        return run

    def _summarize(self, run: Any) -> dict[str, Any]:
        """Returns the results of a run, the alarms of the detectors and the baselines, and measures of stability."""
        from evenkeel.models.telemetry import step_row

        trace = self._engine.trace(run)
        alarms = detectors.alarms(trace)
        accuracy = step_row.column(run.rows, "accuracy").astype(np.float64)
        layers = trace.layers
        dead = layers["dead"] if "dead" in layers else np.zeros((0, 0))
        zero_gradients = np.nanmean(dead, axis=1) if dead.size and np.isfinite(dead).any() else np.zeros(len(dead))
        validation_loss = np.array([loss for _, _, loss in run.validated])
        symptoms = baselines.autotrainer_symptoms(
            np.array([float(part.mean()) for part in np.array_split(accuracy, VALIDATIONS_PER_RUN) if len(part)]),
            np.array([accuracy for _, accuracy, _ in run.validated]),
            layers.get("gradient_norm", np.zeros((0, 1))),
            np.nan_to_num(zero_gradients),
            run.loss,
        )
        return {
            "accuracy": run.validated[-1][1],
            "loss": _json_number(run.validated[-1][2]),
            "steps": len(run.loss),
            "alarms": [[alarm.kind, alarm.step] for alarm in alarms],
            "first_alarm": min((alarm.step for alarm in alarms), default=None),
            "loss_spike_rule": baselines.loss_spike_step(run.loss),
            "autotrainer": symptoms,
            "terminate_on_nan": baselines.terminate_on_nan_step(run.loss),
            "reduce_on_plateau": baselines.reduce_on_plateau_epoch(validation_loss, patience=PLATEAU_PATIENCE),
            "early_stopping": baselines.early_stopping_epoch(validation_loss),
            "spike_score": statistics.spike_score(run.loss),
            "loss_variance": _json_number(statistics.loss_variance(run.loss, trace.warmup)),
            "diverged": statistics.has_diverged(run.loss),
        }

    # Diagnosis and repair of persistent faults.

    def _diagnose(self, case: Case) -> dict[str, Any]:
        from evenkeel.models.doctor.doctor import diagnose

        config = self.faulty_config(case) if case.fault else self.clean_config(case)
        output = os.path.join(self._scratch, case.name)
        os.makedirs(output, exist_ok=True)
        start = time.process_time()
        findings = tuple(self._run_preflight(config))
        diagnosis = diagnose(config, self._engine, findings, output=output)
        return {
            "suspects": [[suspect.cause, round(suspect.probability, 4)] for suspect in diagnosis.suspects],
            "sound": round(diagnosis.sound, 4),
            "unknown": round(diagnosis.unknown, 4),
            "alarms": sorted({alarm.kind for alarm in diagnosis.alarms}),
            "findings": [finding.check for finding in findings if not finding.ok],
            "fix": diagnosis.fix,
            "replays": [[replay.flags, replay.accuracy, round(replay.seconds, 2)] for replay in diagnosis.replays],
            "diagnosis_seconds": round(time.process_time() - start, 3),
            "run_seconds": round(diagnosis.replays[0].seconds, 3),
        }

    def _diagnosis_of(self, case: Case) -> dict[str, Any]:
        """Returns the values of the diagnosis of the same run, and first makes the diagnosis if there is none yet."""
        key = case._replace(kind="diagnosis")
        if key not in self._diagnoses:
            self._diagnoses[key] = self._diagnose(key)
        return self._diagnoses[key]

    def _run_fixed(self, case: Case) -> dict[str, Any]:
        return self._run_with_flags(case, self._diagnosis_of(case)["fix"])

    def _run_random(self, case: Case) -> dict[str, Any]:
        """Returns the best of several runs with random changes. New runs start within the CPU time of the diagnosis."""
        budget = self._diagnosis_of(case)["diagnosis_seconds"]
        rng = np.random.default_rng([case.seed, *case.name.encode()])
        start, best, runs = time.process_time(), {"accuracy": 0.0}, 0
        while runs == 0 or time.process_time() - start < budget:
            values = self._run_with_flags(case, baselines.draw_random_changes(rng))
            best, runs = max(best, values, key=lambda values: values["accuracy"]), runs + 1
        return {**best, "runs": runs}

    def _run_autotrainer(self, case: Case) -> dict[str, Any]:
        """Returns the best of AutoTrainer's repairs of the first symptom. Each repair is tried alone."""
        config = self.faulty_config(case)
        unrepaired = self._summarize(self._train(config))
        best = {**unrepaired, "flags": {}}
        symptoms = unrepaired["autotrainer"]
        for flags in baselines.autotrainer_repairs(symptoms[0], config) if symptoms else ():
            best = max(best, self._run_with_flags(case, flags), key=lambda values: values["accuracy"])
        return best

    def _run_with_flags(self, case: Case, flags: dict[str, Any]) -> dict[str, Any]:
        """Trains the faulty run with changes. The accuracy is 0 if the changed configuration is invalid."""
        try:
            run = self._train(with_options(self.faulty_config(case), flags))
        except UsageError as error:  # random options may contradict each other
            return {"accuracy": 0.0, "flags": flags, "refused": str(error)}
        return {"accuracy": run.validated[-1][1], "flags": flags}

    # Transient faults.

    def _run_struck(self, case: Case) -> dict[str, Any]:
        return self._run_injected(case, "watch")

    def _run_answered(self, case: Case) -> dict[str, Any]:
        return self._run_injected(case, "act")

    def _run_injected(self, case: Case, guard: str) -> dict[str, Any]:
        """Trains a run with a transient fault. `guard` is "watch" or "act"."""
        from evenkeel.models.distribute import strategy
        from evenkeel.models.errors import TrainingFailed
        from evenkeel.models.stability.guard import StabilityGuard
        from evenkeel.models.telemetry.incidents import Incidents
        from evenkeel.models.training import build_model
        from evenkeel.models.training.batches import count_steps_per_epoch
        from evenkeel.models.training.validation import evaluate
        from evenkeel.pipeline import build

        config = dataclasses.replace(self.clean_config(case), guard=guard)
        devices, data = self._engine.devices, self._engine.load_data(config)
        build_model.configure_process(config)
        steps_per_epoch = count_steps_per_epoch(config, data)
        model = build_model.create_model(config, data, devices, steps_per_epoch)
        fault = faults.FAULTS[case.fault]
        first_step = split.first_faulty_step(case.fault, case.seed, steps_per_epoch * config.epochs, steps_per_epoch)
        assert fault.inject
        injection = fault.inject(first_step=first_step, seed=case.seed)
        replica_shard = strategy.replica_shard(devices, config.data.batch_size)
        clean_batches = build.training_batches(data, config.data, config.seed, replica_shard)
        batches = injection.transform_dataset(clean_batches, 0, len(data.classes))
        recorded: list[tuple[int, str, str]] = []
        incidents = Incidents()
        incidents.listeners.append(lambda step, kind, evidence, action: recorded.append((step, kind, action)))
        guard_callback = StabilityGuard(
            guard == "act",
            incidents,
            round(config.optimizer.warmup_epochs * steps_per_epoch),
            batch=config.data.batch_size,
        )
        failure_message = ""
        try:
            model.fit(
                batches,
                steps_per_epoch=steps_per_epoch,
                epochs=config.epochs,
                verbose=0,
                callbacks=[*injection.callbacks, guard_callback],
            )
        except TrainingFailed as failure:
            failure_message = str(failure)
        results = evaluate(model, *self._engine.evaluation_batches(config))
        return {
            "accuracy": results["accuracy"],
            "loss": _json_number(results["loss"]),
            "first": first_step,
            "incidents": recorded,
            "stopped": failure_message,
        }

    # Cost of the guard.

    def _measure_overhead(self, case: Case) -> dict[str, Any]:
        """Measures the relative increase of the CPU time of 20 steps by the guard, in pairs of turns A B B A."""
        from evenkeel.benchmarks import timing
        from evenkeel.benchmarks.speed import observe_cases

        if not self._overhead_turns:
            turns = observe_cases.build_turns(100, self._scratch)
            self._overhead_turns = {name: turns[name] for name in ("observed", "guarded")}
            timing.measure_interleaved(self._overhead_turns, rounds=0, warmup=2)
        order = timing.turn_order(list(self._overhead_turns), case.seed)
        samples = timing.measure_interleaved({name: self._overhead_turns[name] for name in order}, rounds=1, warmup=0)
        cpu_seconds = {name: sum(sample.cpu_seconds for sample in measured) for name, measured in samples.items()}
        return {"overhead": cpu_seconds["guarded"] / cpu_seconds["observed"] - 1}


def _json_number(value: float) -> float | str:
    """Returns `value`, or its text if it is not finite, because JSON has no infinity."""
    return float(value) if np.isfinite(value) else str(value)
