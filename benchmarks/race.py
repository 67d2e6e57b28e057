"""A fair race of designs: each is trained for the same wall time, with several seeds.

Run: python -m benchmarks.race [--project DIR] [--designs FILE] [--tune] [--jobs N] [--seeds N]

The project is a folder with params.yaml and the data of `dvc repro index`; by default, this one.
The real stages run in folders of their own. What is finished is not run again, and a training that
was stopped resumes. `--tune` measures validation mixtures of another evaluate.seed; without it, the
mixtures of the result are measured, which is to happen once, after tuning.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from benchmarks.race_cost import COST, Cost
from benchmarks.race_report import Entry, write_report
from sop.dataset.index import TEST, TRAIN, read_index
from sop.params import Params, TrainParams, read_yaml, validate
from sop.runtime.code import code_hash
from sop.runtime.errors import UserError, run, stoppable
from sop.runtime.files import make_folder, write_json
from sop.runtime.log import say
from sop.runtime.stage import host_name, timestamp

ROOT = Path(__file__).parents[1]
DESIGNS = ROOT / "benchmarks" / "race.yaml"

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")

FIXED = (
    *("workers", "cluster", "device", "log_every", "checkpoint_seconds"),
    *("dataset", "extract", "index", "mixture.sources", "mixture.same_category"),
    *("train.seed", "train.repeats", "train.epochs", "train.devices"),
    *("train.evaluate_every", "train.evaluate_mixtures"),
    *("evaluate.seed", "evaluate.pairs", "evaluate.mixtures", "evaluate.shown"),
    *("evaluate.same_category", "evaluate.silent", "localize", "report"),
    *("denoise.seed", "denoise.tuning_fraction"),
)
"""Parameters and sections that are the same for all designs: the data, what is measured, and the
length of the training, which the race chooses."""

COST_STEPS = 40
COST_ROUNDS = 2

SCHEDULE_TOLERANCE = 0.01
"""Schedules that miss the time by less are equally good."""

SHARED = ("audio", "frames", "motion", "videos")
TRAIN_STAGE, TUNE, RESULT = "train", "tune", "result"


class Schedule(NamedTuple):
    """The length of a training."""

    epochs: int
    repeats: int
    steps: int
    seconds: float
    """Predicted time of its steps and validations."""


@dataclass(frozen=True)
class Plan:
    """What a design is, what it costs and how long it is trained."""

    params: dict[str, Any]
    """All parameters; `train.seed` is that of the first run."""
    cost: Cost
    schedule: Schedule


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a race, and write its report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.race",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--project", type=Path, default=Path(), help="folder of params.yaml, data")
    parser.add_argument("--designs", type=Path, default=DESIGNS, help="YAML file of the designs")
    parser.add_argument(
        "--folder", type=Path, help="of the runs; default: data/race of the project"
    )
    parser.add_argument("--seeds", type=positive, default=3, help="runs of each design")
    parser.add_argument(
        "--jobs", type=positive, help="runs at the same time; default: one per core"
    )
    parser.add_argument(
        "--budget", type=float, help="seconds of a training; default: as the first design takes"
    )
    parser.add_argument("--tune", action="store_true", help="measure mixtures for tuning")
    parser.add_argument("--no-denoise", action="store_true", help="leave out denoise")
    parser.add_argument("--cost-steps", type=positive, default=COST_STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.budget is not None and not 0 < options.budget < 1e7:
        raise UserError(f"--budget {options.budget:g}: not a number of seconds above 0")
    with stoppable():
        return Race(options).run()


def positive(text: str) -> int:
    """Return a number of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


class Race:
    """A race: its designs, and the folder of its runs.

    Args:
        options: of the command line.

    Raises:
        UserError: a file is wrong, or the folder holds another race.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.project: Path = options.project.resolve()
        self.base = base_params(self.project)
        self.designs = read_designs(options.designs, self.base, f"{self.project}/params.yaml")
        index = self.project / "data" / "index" / TRAIN
        if not index.is_file():
            raise UserError(f"{index}: not found; run `dvc repro index` in {self.project}")
        self.videos = len(read_index(index))
        self.folder: Path = (options.folder or self.project / "data" / "race").resolve()
        self.kind = TUNE if options.tune else RESULT
        cores = usable_cores()
        self.jobs = options.jobs or len(cores)
        if self.jobs > len(cores):
            raise UserError(f"--jobs {self.jobs}: this machine has {len(cores)} usable cores")
        self.threads = len(cores) // self.jobs
        self.workers = Workers([cores[at :: self.jobs][: self.threads] for at in range(self.jobs)])
        first = params_of(self.base).train.seed
        self.seeds = range(first, first + options.seeds)

    def run(self) -> int:
        """Measure costs, train, evaluate, and write the report; 1 if a run failed."""
        self.check_folder()
        self.measure_costs()
        plans = self.make_plans()
        # By seed first, so that a change of the machine's load hits all designs.
        tasks = [(name, seed) for seed in self.seeds for name in self.designs]
        failed = self.workers.all(
            [partial(self.run_one, name, seed, plans[name]) for name, seed in tasks]
        )
        entries = [self.entry(name, seed, plans[name]) for name, seed in tasks]
        finished = [entry for entry in entries if entry is not None]
        for problem in failed:
            say(f"failed: {problem}")
        if finished:
            path = write_report(self.folder, self.kind, finished, self.about())
            print(path.read_text(encoding="utf-8"))
            say(f"written to {path}")
        return 1 if failed else 0

    def check_folder(self) -> None:
        """Check that the folder is of a race on this machine, or begin one.

        Raises:
            UserError: it is of another one.
        """
        path = self.folder / "race.json"
        now = {
            "project": str(self.project),
            "host": host_name(),
            "jobs": self.jobs,
            "threads": self.threads,
        }
        earlier = read_json(path)
        if earlier is None:
            write_json(path, {**now, "budget": self.options.budget})
            return
        for key, value in now.items():
            if earlier.get(key) != value:
                raise UserError(
                    f"{path}: the race was begun with {key} {earlier.get(key)}, not {value}; wall "
                    "times would not be comparable, give another --folder"
                )
        asked = self.options.budget
        if asked is not None and asked != earlier["budget"]:
            raise UserError(
                f"{path}: the race has a budget of {earlier['budget']} s, not {asked:g}; give "
                "another --folder"
            )

    def measure_costs(self) -> None:
        """Train each design shortly, as many at once as in the race.

        Raises:
            UserError: a design cannot be trained.
        """
        tasks = [
            partial(self.measure_cost, self.folder / name / f"cost-{number}", params)
            for number in range(1, COST_ROUNDS + 1)
            for name, params in self.designs.items()
            if not (self.folder / name / "plan.json").is_file()
        ]
        if tasks:
            say(f"measuring the cost of a step in {len(tasks)} short trainings")
        if failed := self.workers.all(tasks):
            raise UserError(failed[0])

    def measure_cost(self, place: Path, params: Mapping[str, Any], cores: Sequence[int]) -> None:
        """Train shortly in a folder, unless that has been done."""
        if (place / COST).is_file():
            return
        shutil.rmtree(place, ignore_errors=True)
        self.prepare(place, params)
        self.workers.python(place, "benchmarks.race_cost", cores, str(self.options.cost_steps))

    def make_plans(self) -> dict[str, Plan]:
        """Return the plan of each design; an earlier one stays as it is.

        Raises:
            UserError: a design is not what it was.
        """
        plans: dict[str, Plan] = {}
        state = self.folder / "race.json"
        for name, params in self.designs.items():
            path = self.folder / name / "plan.json"
            settings = params_of(params)
            found = read_json(path)
            if found is not None:
                plans[name] = Plan(
                    found["params"], Cost(**found["cost"]), Schedule(*found["schedule"])
                )
                if changed := differences(plans[name].params, settings.model_dump(mode="json")):
                    raise UserError(
                        f"{path}: since then, {changed[0]} has changed; give the design another "
                        f"name, or delete {path.parent}"
                    )
                continue
            rounds = sorted((self.folder / name).glob(f"cost-*/{COST}"))
            cost = mean_cost([Cost(**json.loads(path.read_text())) for path in rounds])
            race = json.loads(state.read_text(encoding="utf-8"))
            if race["budget"] is None:
                race["budget"] = round(scheduled(settings.train, self.videos, cost).seconds, 1)
                write_json(state, race)
            schedule = choose_schedule(race["budget"], cost, settings.train, self.videos)
            plans[name] = Plan(settings.model_dump(mode="json"), cost, schedule)
            write_json(path, {**asdict(plans[name]), "schedule": list(schedule)})
        return plans

    def run_one(self, name: str, seed: int, plan: Plan, cores: Sequence[int]) -> None:
        """Train a design with a seed, and measure it; what is finished is not run again.

        Raises:
            UserError: a stage failed.
        """
        folder = self.folder / name / f"seed-{seed}"
        values = dict(self.designs[name])
        schedule = {"epochs": plan.schedule.epochs, "repeats": plan.schedule.repeats}
        values["train"] = {**values["train"], "seed": seed, **schedule}
        trained = folder / TRAIN_STAGE
        self.prepare(trained, values)
        self.stage(trained, "train", cores)
        measured = folder / self.kind
        evaluate = {**values["evaluate"], "shown": 0}
        if self.kind == TUNE:
            evaluate |= {"seed": evaluate["seed"] + 1, "pairs": None}
        self.prepare(measured, {**values, "evaluate": evaluate}, trained, self.kind == TUNE)
        if self.kind == RESULT and not (measured / "evaluate.json").is_file():
            self.workers.note_look(self.folder / "looks.json", f"{name}/seed-{seed}")
        self.stage(measured, "evaluate", cores)
        if not self.options.no_denoise:
            self.stage(measured, "denoise", cores)

    def stage(self, folder: Path, stage: str, cores: Sequence[int]) -> None:
        """Run a stage in a folder unless it is finished there."""
        done = folder / f"{stage}.json"
        state = read_json(done) or {"attempts": [], "finished": False}
        if state["finished"]:
            return
        # Unknown, in case that this process is killed.
        state["attempts"].append(None)
        write_json(done, state)
        place = f"{folder.parent.parent.name} {folder.parent.name} {stage}"
        self.workers.say(f"{place} begins")
        began = time.monotonic()
        try:
            self.workers.python(folder, f"stages.{stage}", cores)
            state["finished"] = True
        finally:
            state["attempts"][-1] = round(time.monotonic() - began, 2)
            state["code"] = code_hash(Path("stages") / f"{stage}.py")[:8]
            write_json(done, state)
        self.workers.say(f"{place} took {state['attempts'][-1]:.0f} s")

    def prepare(
        self,
        folder: Path,
        values: Mapping[str, Any],
        trained: Path | None = None,
        without_test: bool = False,
    ) -> None:
        """Make a folder in which stages run: params.yaml, and links to the data.

        Args:
            folder: the folder.
            values: the parameters.
            trained: the folder whose model is evaluated.
            without_test: whether a list of test videos is left out, so that the validation videos
                are measured; then with the last model, since the best was chosen on them.
        """
        data = make_folder(folder / "data")
        for name in SHARED:
            link(data / name, self.project / "data" / name)
        lists = self.project / "data" / "index"
        for path in lists.iterdir():
            if not (without_test and path.name in (TEST, "split.json")):
                link(make_folder(data / "index") / path.name, path)
        protocols = Path(values["index"]["split"]["folder"])
        if not protocols.is_absolute() and ".." not in protocols.parts:
            link(folder / protocols, self.project / protocols)
        if trained is not None:
            link(data / "model", trained / "data" / "model")
        params = params_of({**values, "workers": self.threads}).model_dump(mode="json")
        path = folder / "params.yaml"
        if not path.is_file() or read_yaml(path) != params:
            with path.open("w", encoding="utf-8") as file:
                YAML().dump(params, file)

    def entry(self, name: str, seed: int, plan: Plan) -> Entry | None:
        """Return a run for the report; None if it is not finished."""
        folder = self.folder / name / f"seed-{seed}"
        trained = read_json(folder / TRAIN_STAGE / "train.json")
        measured = read_json(folder / self.kind / "evaluate.json")
        denoised = read_json(folder / self.kind / "denoise.json")
        if not (trained and measured and measured["finished"]):
            return None
        note = read_json(folder / TRAIN_STAGE / "data" / "notes" / "train.json") or {}
        attempts = trained["attempts"]
        codes = [state["code"] for state in (trained, measured, denoised) if state]
        return Entry(
            design=name,
            seed=seed,
            folder=folder / self.kind,
            denoised=bool(denoised and denoised["finished"]),
            seconds=sum(seconds or 0.0 for seconds in attempts),
            attempts=len(attempts),
            peak_mib=note.get("peak_mib"),
            steps=plan.schedule.steps,
            planned=plan.schedule.seconds,
            cost=plan.cost,
            code=" ".join(codes),
        )

    def about(self) -> list[str]:
        """Return the sentences on top of the report."""
        race = json.loads((self.folder / "race.json").read_text(encoding="utf-8"))
        lines = [
            f"Each design is trained for {race['budget']:.0f} s (steps and validations). Seeds: "
            f"{len(self.seeds)}; runs at the same time: {self.jobs}; cores of each: {self.threads}."
        ]
        if self.kind == TUNE:
            lines.append("Measured on mixtures for tuning: no result.")
        else:
            looks = json.loads((self.folder / "looks.json").read_text(encoding="utf-8"))
            runs = [run for look in looks["looks"] for run in look["runs"]]
            when = ", ".join(look["began"] for look in looks["looks"])
            lines.append(
                f"Calls that measured mixtures of the result: {len(looks['looks'])} ({when}), of "
                f"{len(runs)} runs."
            )
        first, *_ = self.designs
        for name, params in self.designs.items():
            changes = differences(self.designs[first], params)
            base = differences(params_of(self.base).model_dump(mode="json"), params)
            shown = base if name == first else changes
            against = "params.yaml" if name == first else f"`{first}`"
            lines.append(f"`{name}`: {', '.join(shown) or 'nothing'} different from {against}.")
        return lines


class Workers:
    """Runs programs, one for each set of cores at a time.

    Args:
        core_sets: the cores of each.
    """

    def __init__(self, core_sets: Sequence[Sequence[int]]) -> None:
        self.core_sets = core_sets
        self.live: set[subprocess.Popen[bytes]] = set()
        self.lock = threading.Lock()
        self.stopped = False
        self.began = timestamp()

    def all(self, tasks: Sequence[Callable[[Sequence[int]], None]]) -> list[str]:
        """Run tasks, each on a set of cores, and return the errors of those that failed.

        If this process is stopped, the programs that run are stopped, too.
        """
        free: SimpleQueue[Sequence[int]] = SimpleQueue()
        for cores in self.core_sets:
            free.put(cores)
        failed: list[str] = []

        def one(task: Callable[[Sequence[int]], None]) -> None:
            cores = free.get()
            try:
                if not self.stopped:
                    task(cores)
            except UserError as error:
                failed.append(str(error))
            finally:
                free.put(cores)

        with ThreadPoolExecutor(len(self.core_sets)) as pool, self.stopping():
            for future in [pool.submit(one, task) for task in tasks]:
                future.result()
        return failed

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Stop all programs if the block ends by an exception."""
        try:
            yield
        except BaseException:
            with self.lock:
                self.stopped = True
                for process in self.live:
                    process.terminate()
            raise

    def python(self, folder: Path, module: str, cores: Sequence[int], *arguments: str) -> None:
        """Run a module of this repository in a folder; what it prints is added to log.txt there.

        Raises:
            UserError: it failed; with its last line.
        """
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": str(len(cores)),
            "NUMBA_NUM_THREADS": str(len(cores)),
        }
        log = folder / "log.txt"
        with log.open("ab") as file:
            with self.lock:
                if self.stopped:
                    raise UserError(f"{folder}: stopped")
                process = subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                )
                self.live.add(process)
            if hasattr(os, "sched_setaffinity"):
                # On cores of its own, a run is as fast whatever the others do.
                os.sched_setaffinity(process.pid, cores)
            try:
                status = process.wait()
            finally:
                with self.lock:
                    self.live.discard(process)
        if status:
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "")
            raise UserError(f"{log}: {module} ended with status {status}: {last.strip()}")

    def say(self, line: str) -> None:
        """Print a line; those of several threads do not mix."""
        with self.lock:
            say(line)

    def note_look(self, path: Path, run: str) -> None:
        """Note that a run is measured on the mixtures of the result."""
        with self.lock:
            looks = (read_json(path) or {"looks": []})["looks"]
            if not looks or looks[-1]["began"] != self.began:
                looks.append({"began": self.began, "runs": []})
            if all(run not in look["runs"] for look in looks):
                looks[-1]["runs"].append(run)
            write_json(path, {"looks": looks})


def base_params(project: Path) -> dict[str, Any]:
    """Return the parameters of a project; those that it lacks are as in this repository.

    Raises:
        UserError: its params.yaml is missing or wrong.
    """
    path = project / "params.yaml"
    values = read_yaml(path)
    lacking: list[str] = []

    def fill(into: dict[str, Any], defaults: Mapping[str, Any], above: str) -> None:
        for key, default in defaults.items():
            if key not in into:
                into[key] = default
                lacking.append(f"{above}{key}")
            elif isinstance(default, dict) and isinstance(into[key], dict):
                fill(into[key], default, f"{above}{key}.")

    if project != ROOT:
        fill(values, read_yaml(ROOT / "params.yaml"), "")
    if lacking:
        say(f"{path}: not there, so as in this repository: {', '.join(lacking)}")
    return validate(Params, values, str(path)).model_dump(mode="json")


def read_designs(path: Path, base: Mapping[str, Any], of: str) -> dict[str, dict[str, Any]]:
    """Read designs, and return the parameters of each.

    Args:
        path: the YAML file: a mapping of names to mappings of dotted keys to values.
        base: the parameters that they change.
        of: the file of these parameters, for messages.

    Raises:
        UserError: the file is missing, or a name, key or value is wrong.
    """
    content = read_yaml(path)
    designs = {}
    for name, changes in content.items():
        place = f"{path}: {name}"
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UserError(
                f"{place}: not a name of a design; use up to 40 small letters, digits, - and _"
            )
        if not isinstance(changes, dict | None):
            raise UserError(f"{place}: not a mapping of dotted keys, such as train.loss: l1")
        values = json.loads(json.dumps(base))
        for key, value in (changes or {}).items():
            if f"{key}.".startswith(tuple(f"{fixed}." for fixed in FIXED)):
                raise UserError(f"{place}: {key} is the same for all designs; remove it")
            *sections, last = str(key).split(".")
            section: Any = values
            for part in sections:
                section = section.get(part) if isinstance(section, dict) else None
            # A whole section would bring what is the same for all designs.
            if not sections or not isinstance(section, dict) or last not in section:
                raise UserError(f"{place}: {key} is no parameter of {of}; correct it")
            section[last] = value
        designs[name] = validate(Params, values, place).model_dump(mode="json")
    return designs


def scheduled(params: TrainParams, videos: int, cost: Cost) -> Schedule:
    """Return the schedule that parameters ask for, with the time that it takes."""
    epoch = max(1, videos * params.repeats // params.batch_size)
    steps = epoch * params.epochs
    validations = -(-params.epochs // params.evaluate_every)
    seconds = steps * cost.step + validations * cost.validation
    return Schedule(params.epochs, params.repeats, steps, seconds)


def choose_schedule(budget: float, cost: Cost, params: TrainParams, videos: int) -> Schedule:
    """Choose epochs and repeats so that steps and validations take a given time.

    Of the schedules that miss it by less than `SCHEDULE_TOLERANCE`, the one with the most similar
    number of epochs is chosen; if there is none, the nearest.

    Args:
        budget: the time in seconds.
        cost: of a step and a validation.
        params: batch size, usual number of epochs, and validations.
        videos: number of training videos.
    """
    usual = params.epochs
    # The learning rates of this schedule change at epochs.
    is_fixed = params.schedule == "steps"
    found = []
    for epochs in [usual] if is_fixed else range(max(1, usual // 2), 2 * usual + 1):
        for_steps = budget - -(-epochs // params.evaluate_every) * cost.validation
        exact = for_steps / cost.step / epochs * params.batch_size / videos
        for repeats in {max(1, int(exact)), max(1, int(exact) + 1)}:
            length = params.model_copy(update={"epochs": epochs, "repeats": repeats})
            found.append(scheduled(length, videos, cost))

    def distance(one: Schedule) -> tuple[float, int, float]:
        error = abs(one.seconds / budget - 1)
        return max(error, SCHEDULE_TOLERANCE), abs(one.epochs - usual), error

    return min(found, key=distance)


def mean_cost(rounds: Sequence[Cost]) -> Cost:
    """Return the mean of several measurements."""
    parts = [asdict(one) for one in rounds]
    means = {key: sum(part[key] for part in parts) / len(parts) for key in parts[0]}
    return Cost(**{**means, "parameters": rounds[0].parameters})


def differences(first: Mapping[str, Any], second: Mapping[str, Any], above: str = "") -> list[str]:
    """Return what differs in the second of two trees of parameters, as `train.loss=l1`."""
    found = []
    for key in {**first, **second}:
        old, new = first.get(key), second.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{above}{key}.")
        elif old != new:
            found.append(f"{above}{key}={json.dumps(new)}")
    return found


def params_of(values: Mapping[str, Any]) -> Params:
    """Return parameters from their values, which have been validated before."""
    return validate(Params, dict(values), "params.yaml")


def usable_cores() -> list[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def link(path: Path, target: Path) -> None:
    """Link to a file or folder, if it exists and the link does not."""
    if target.exists() and not path.is_symlink():
        path.symlink_to(target)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a file that the race wrote; None if it is missing.

    Raises:
        UserError: it is damaged.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); delete it") from None


if __name__ == "__main__":
    run(main)
