"""Whether one revision of the project is better than another, or only luckier.

Two evaluations are compared mixture by mixture, where both separated the same one: then the
mixtures' own difficulty, which is most of what differs between them, is no part of the difference.
"""

import csv
import io
import json
import math
import os
import re
import subprocess
import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from sop.denoise.bootstrap import Interval, mean_interval
from sop.evaluate.measures import MEASURES
from sop.params import PARAMS_PATH
from sop.runtime.errors import UserError

MIXTURES_PATH = Path("metrics/evaluate/mixtures.csv")
WORKSPACE = "workspace"

COMPARED = tuple(name for name in MEASURES if name != "sdr_mixture")  # which is no model's merit
DECIDING = "sdr"

BETTER = "better"
WORSE = "worse"
SAME = "the same"
UNDECIDED = "no difference that these mixtures can tell"

# Were both equally good, fewer would all favour the same one more than 5 times of 100.
FEWEST_MIXTURES = 6

# What decides which mixtures are evaluated, and what is in them.
MIXTURE_PARAMS = ("seed", "dataset", "extract", "index", "mixture", "evaluate.mixtures")

# The sums of binary fractions leave a rest where values of four decimals are equal.
DECIMALS = 9

# Between mixtures that are the same but for rounding, in dB.
SAME_SOUNDS_DB = 0.05


class Absent(Enum):
    """The value of a parameter where it is not in params.yaml; null is a value."""

    ABSENT = "(absent)"


ABSENT = Absent.ABSENT


@dataclass(frozen=True)
class ParamChange:
    """A parameter that two revisions do not share."""

    key: str
    """Dotted, as in `train.epochs`."""
    old: Any
    """Its value, or `ABSENT`."""
    new: Any
    """Its value, or `ABSENT`."""

    def as_text(self) -> str:
        """`key: old -> new`."""
        old, new = _shown(self.old), _shown(self.new)
        if old == new:
            # The text "5" and the number 5.
            old, new = _json(self.old), _json(self.new)
        return f"{self.key}: {old} -> {new}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON: `key`, `old` and `new`, the latter two only where there is a value."""
        sides = (("old", self.old), ("new", self.new))
        return {
            "key": self.key,
            **{side: _plain(value) for side, value in sides if value is not ABSENT},
        }


@dataclass(frozen=True)
class Revision:
    """What was compared."""

    name: str
    """As the user gave it."""
    commit: str | None
    """Its full hash; None is the working tree."""

    def __str__(self) -> str:
        """The name, with the beginning of the hash where that says more."""
        if self.commit is None or self.commit.startswith(self.name):
            return self.name
        return f"{self.name} ({self.commit[:7]})"

    def as_dict(self) -> dict[str, str | None]:
        """For JSON."""
        return {"name": self.name, "commit": self.commit}


@dataclass(frozen=True)
class Difference:
    """What one measure says of A and B; the means are over mixtures, of their sources' means."""

    mixtures: int
    """In which both have a value."""
    a: float
    """Mean in dB."""
    b: float
    """Mean in dB."""
    difference: Interval
    """Of B - A in dB, over mixtures."""
    better: float
    """Share of the mixtures in which B is better, 0 to 1."""

    @property
    def verdict(self) -> str:
        """On B: `BETTER`, `WORSE`, `SAME` or `UNDECIDED`."""
        if self.difference == (0, 0, 0):
            return SAME
        if self.mixtures >= FEWEST_MIXTURES:
            if self.difference.low > 0:
                return BETTER
            if self.difference.high < 0:
                return WORSE
        return UNDECIDED

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "mixtures": self.mixtures,
            "a": self.a,
            "b": self.b,
            "difference": self.difference.as_dict(),
            "better": self.better,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Comparison:
    """Whether B is better than A."""

    a: Revision
    b: Revision
    paired: int
    """Mixtures of the same videos in both."""
    mixtures: tuple[int, int]
    """That A and B have."""
    measures: dict[str, Difference]
    """By measure; without those of which there is no pair of values."""
    category: dict[str, Difference]
    """`DECIDING` by category."""
    params: list[ParamChange] | None
    """That differ; None where that is not known."""
    notes: list[str]
    """What a reader should know before believing it, one sentence each."""

    @property
    def verdict(self) -> str:
        """On B, by `DECIDING`: `BETTER`, `WORSE`, `SAME` or `UNDECIDED`."""
        return self.measures[DECIDING].verdict

    def as_text(self) -> str:
        """For the terminal, at most 80 columns but for what users named."""
        lines = [f"A  {self.a}", f"B  {self.b}", "", *self._verdict_lines(), *self._counted()]
        for note in self.notes:
            lines += ["", *_wrapped(f"note: {note}")]
        lines += ["", *_table("dB, means", self.measures)]
        if self.verdict != SAME:
            lines += ["", *_table(DECIDING, self.category)]
            if len(self.category) > 1:
                lines += ["One in twenty such intervals misses the truth by chance."]
        if self.params is not None:
            lines += ["", "Parameters, A -> B" if self.params else "No parameter differs."]
            lines += [f"  {change.as_text()}" for change in self.params]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; every number is finite."""
        return {
            "a": self.a.as_dict(),
            "b": self.b.as_dict(),
            "verdict": self.verdict,
            "mixtures": {"paired": self.paired, "a": self.mixtures[0], "b": self.mixtures[1]},
            "measures": {name: value.as_dict() for name, value in self.measures.items()},
            "category": {name: value.as_dict() for name, value in self.category.items()},
            "params": None if self.params is None else [p.as_dict() for p in self.params],
            "notes": self.notes,
        }

    def _verdict_lines(self) -> Iterator[str]:
        deciding = self.measures[DECIDING]
        if self.verdict == SAME:
            yield f"A and B are {SAME}: equal {DECIDING} in every mixture."
            return
        who = f"{'A and B: ' if self.verdict == UNDECIDED else 'B is '}{self.verdict}."
        by = f"{DECIDING} {_decibels(deciding.difference.mean)} dB on average"
        if deciding.mixtures < FEWEST_MIXTURES:
            yield who
            few = "one mixture" if deciding.mixtures == 1 else f"{deciding.mixtures} mixtures"
            yield f"{by}, but {few} cannot tell it from luck; it takes {FEWEST_MIXTURES} or more."
            return
        yield who
        yield f"{by}, 95 % interval {_interval(deciding)}."
        yield "That is the luck of the mixtures only: training from another seed moves it too."

    def _counted(self) -> Iterator[str]:
        if self.mixtures == (self.paired, self.paired):
            yield f"{self.paired} {_mixtures(self.paired)}, of the same videos in both."
        else:
            yield (
                f"{self.paired} {_mixtures(self.paired)} compared, which both have; "
                f"A has {self.mixtures[0]}, B {self.mixtures[1]}."
            )


def compare(a: str, b: str, folder: Path, seed: int) -> Comparison:
    """Compare what two revisions measured on the same mixtures.

    Args:
        a: any git revision, the name of a DVC experiment, or `workspace`.
        b: the same.
        folder: the project's, inside a git repository.
        seed: of the intervals' resampling.

    Raises:
        UserError: a revision is unknown, has no measures or damaged ones, or no mixture is in both.
    """
    revisions = (_revision(a, folder), _revision(b, folder))
    first, second = (_scores(revision, folder) for revision in revisions)
    notes = []
    params: list[ParamChange] | None
    try:
        params = _changed_params(*revisions, folder)
    except UserError as error:
        params = None
        notes.append(f"which parameters differ is not known: {error}")
    pairs = _pair(first, second)
    if not pairs:
        raise UserError(_nothing_in_common(revisions, (len(first), len(second)), params))

    measures = {}
    for name in COMPARED:
        difference = _difference(pairs, name, seed)
        if difference is not None:
            measures[name] = difference
    if DECIDING not in measures:
        raise UserError(
            f"{a} and {b}: no mixture has {DECIDING} in both; `dvc repro --force evaluate` "
            "measures again"
        )
    notes += _values_left_out(pairs)
    notes += _other_sounds(pairs)
    if params and all(difference.verdict == SAME for difference in measures.values()):
        notes.append("parameters differ and no result does: has `dvc repro` run since?")
    return Comparison(
        a=revisions[0],
        b=revisions[1],
        paired=len(pairs),
        mixtures=(len(first), len(second)),
        measures=measures,
        category=dict(_by_category(pairs, seed)),
        params=params,
        notes=notes,
    )


def changed_params(a: str, b: str, folder: Path) -> list[ParamChange]:
    """The parameters whose values in params.yaml differ: changed ones first, then new, then gone.

    Args:
        a: any git revision, the name of a DVC experiment, or `workspace`.
        b: the same.
        folder: the project's, inside a git repository.

    Raises:
        UserError: a revision is unknown, or has no params.yaml or a damaged one.
    """
    return _changed_params(_revision(a, folder), _revision(b, folder), folder)


def flattened(values: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Values of a tree with dotted keys, such as `train.epochs`."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


class _Row(NamedTuple):
    """One source of one mixture."""

    video: str
    category: str
    values: dict[str, float]
    """By measure, in dB; NaN where there is none."""


class _Pair(NamedTuple):
    """The same source of the same mixture."""

    a: _Row
    b: _Row

    def both(self, name: str) -> tuple[float, float] | None:
        """The values of a measure, if there are two."""
        values = self.a.values[name], self.b.values[name]
        return values if all(map(math.isfinite, values)) else None


_Scores = dict[int, dict[int, _Row]]
"""By mixture, by source."""

_Pairs = list[list[_Pair]]
"""Of every mixture that both have, its sources."""


def _revision(name: str, folder: Path) -> Revision:
    """Find the commit of a revision: git's names come first, as with DVC's own commands."""
    if name == WORKSPACE:
        return Revision(name, None)
    if name.startswith("-") or not name or not name.isprintable():
        raise UserError(
            f"{name!r} is no revision; give a branch, tag, commit, experiment or {WORKSPACE}"
        )
    repository = _git(folder, "rev-parse", "--git-dir")
    if repository.returncode:
        raise UserError(
            f"{name}: cannot be looked up in {folder} ({_complaint(repository)}); "
            "run from the root of the project's git repository"
        )
    found = _git(folder, "rev-parse", "--verify", name)
    if found.returncode and "ambiguous" in _complaint(found):
        raise UserError(f"{name}: {_complaint(found)}; give more of it")
    hash_or_not = found.stdout.decode(errors="replace").strip()
    if found.returncode or not re.fullmatch("[0-9a-f]{40,64}", hash_or_not):
        hash_or_not = _experiment(name, folder)
    # A tag has an object of its own, which points to the commit.
    commit = _git(folder, "rev-parse", "--verify", f"{hash_or_not}^{{commit}}")
    if commit.returncode:
        raise UserError(f"{name}: is no commit; give a branch, tag, commit or experiment")
    return Revision(name, commit.stdout.decode().strip())


def _experiment(name: str, folder: Path) -> str:
    """The hash of a DVC experiment, which lies at `refs/exps/<its baseline's hash>/<name>`."""
    listed = _git(folder, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps")
    found: dict[str, str] = {}
    for line in listed.stdout.decode(errors="replace").splitlines():
        commit, _, ref = line.partition(" ")
        parts = re.fullmatch(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38,62})/(.+)", ref)
        if parts and parts[3] == name:
            found[parts[1] + parts[2]] = commit
    if not found:
        raise UserError(
            f"{name}: neither a git revision nor an experiment; "
            "`git log --all --oneline` and `dvc exp list --all` show what there is"
        )
    if len(found) > 1:
        head = _git(folder, "rev-parse", "--verify", "HEAD").stdout.decode().strip()
        if head not in found:
            places = " or ".join(f"refs/exps/{at[:2]}/{at[2:]}/{name}" for at in found)
            raise UserError(
                f"{name}: several commits have an experiment of that name; give {places}"
            )
        return found[head]
    return next(iter(found.values()))


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            # What it says is read, and is quoted in English sentences.
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        raise UserError(f"git cannot be run ({error.strerror}): install it, or mend PATH") from None


def _complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    """The first line that git gave as its reason."""
    lines = done.stderr.decode(errors="replace").strip().splitlines() or ["git does not say why"]
    return re.sub("^(fatal|error): ", "", lines[0])


def _place(revision: Revision, path: Path, folder: Path) -> str:
    return str(folder / path) if revision.commit is None else f"{path} of {revision}"


def _text(revision: Revision, path: Path, folder: Path) -> str:
    """A file of the project as it is in a revision.

    Raises:
        UserError: it is not there or cannot be read.
    """
    place = _place(revision, path, folder)
    try:
        if revision.commit is None:
            data = (folder / path).read_bytes()
        else:
            shown = _git(folder, "cat-file", "blob", f"{revision.commit}:./{path.as_posix()}")
            if shown.returncode:
                complaint = _complaint(shown)
                if re.search("does not exist|exists on disk|exists, but", complaint):
                    raise FileNotFoundError
                raise UserError(f"{place}: cannot be read ({complaint}); compare another revision")
            data = shown.stdout
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        if revision.commit is not None:
            mend = "compare a revision whose results were committed"
        else:
            mend = "`dvc repro` makes it" if path == MIXTURES_PATH else "`git checkout` restores it"
        raise UserError(f"{place}: not there; {mend}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{place}: cannot be read ({reason}); {_mend(revision, path)}") from None


def _mend(revision: Revision, path: Path) -> str:
    if revision.commit is not None:
        return "compare another revision"
    return "`dvc repro --force evaluate` makes it again" if path == MIXTURES_PATH else "mend it"


def _scores(revision: Revision, folder: Path) -> _Scores:
    """Every mixture that a revision measured.

    Raises:
        UserError: there is none, or the file is missing or damaged.
    """
    text = _text(revision, MIXTURES_PATH, folder)
    place = _place(revision, MIXTURES_PATH, folder)
    scores: _Scores = defaultdict(dict)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        needed = {"mixture", "source", "category", "video", DECIDING}
        if lacking := needed - set(reader.fieldnames or ()):
            raise ValueError(f"it has no column {', '.join(sorted(lacking))}")
        for cells in reader:
            if None in cells or None in cells.values():
                raise ValueError(f"line {reader.line_num} has more or fewer cells than the header")
            try:
                mixture, source = int(cells["mixture"]), int(cells["source"])
                values = {name: _value(cells.get(name, "")) for name in MEASURES}
            except ValueError as error:
                raise ValueError(f"line {reader.line_num}: {error}") from None
            if source in scores[mixture]:
                raise ValueError(f"line {reader.line_num} repeats a source of mixture {mixture}")
            scores[mixture][source] = _Row(cells["video"], cells["category"], values)
    except (ValueError, csv.Error) as error:
        raise UserError(f"{place}: damaged, {error}; {_mend(revision, MIXTURES_PATH)}") from None
    if not scores:
        raise UserError(
            f"{place}: no mixture could be measured there; metrics/details/evaluate.json of it "
            "tells the reasons"
        )
    return dict(scores)


def _value(cell: str) -> float:
    return float(cell) if cell.strip() else math.nan


def _pair(a: _Scores, b: _Scores) -> _Pairs:
    """The mixtures of the same number whose sources are the same videos, in their order."""
    pairs = []
    for number in sorted(a.keys() & b.keys()):
        first, second = a[number], b[number]
        if _videos(first) == _videos(second):
            pairs.append([_Pair(first[source], second[source]) for source in sorted(first)])
    return pairs


def _videos(mixture: Mapping[int, _Row]) -> dict[int, str]:
    return {source: row.video for source, row in mixture.items()}


def _difference(
    pairs: _Pairs, name: str, seed: int, category: str | None = None
) -> Difference | None:
    """What a measure says, of one category or all; None if no pair has two values of it.

    Sources of a mixture share its luck, so they are one sample: their mean.
    """
    means = []
    for mixture in pairs:
        of_category = [p for p in mixture if category is None or p.b.category == category]
        values = [both for pair in of_category if (both := pair.both(name))]
        if values:
            means.append(np.mean(values, axis=0))
    if not means:
        return None
    a, b = np.transpose(means)
    differences = np.round(b - a, DECIMALS)
    return Difference(
        mixtures=len(means),
        a=float(a.mean()),
        b=float(b.mean()),
        difference=mean_interval(differences, seed),
        better=float(np.mean(differences > 0)),
    )


def _by_category(pairs: _Pairs, seed: int) -> Iterator[tuple[str, Difference]]:
    for category in sorted({pair.b.category for mixture in pairs for pair in mixture}):
        difference = _difference(pairs, DECIDING, seed, category)
        if difference is not None:
            yield category, difference


def _values_left_out(pairs: _Pairs) -> Iterator[str]:
    rows = [pair for mixture in pairs for pair in mixture]
    for name in COMPARED:
        missing = sum(pair.both(name) is None for pair in rows)
        if missing == len(rows):
            yield f"{name} is left out: no source has a value of it in both"
        elif missing:
            yield (
                f"{name} of {missing} of {len(rows)} sources is left out: it is empty or no finite "
                "number in A or B"
            )


def _other_sounds(pairs: _Pairs) -> Iterator[str]:
    """Without any separation, the same sounds have the same SDR."""
    name = "sdr_mixture"
    gaps = [
        max((abs(both[1] - both[0]) for pair in mixture if (both := pair.both(name))), default=0.0)
        for mixture in pairs
    ]
    others = sum(gap > SAME_SOUNDS_DB for gap in gaps)
    if others:
        yield (
            f"{others} of {len(pairs)} mixtures are of the same videos, but not of the same "
            f"sounds ({name} differs by up to {max(gaps):.2f} dB, as with clips of another length "
            "or rate): one side may only have had it easier"
        )


def _nothing_in_common(
    revisions: tuple[Revision, Revision],
    counts: tuple[int, int],
    params: Sequence[ParamChange] | None,
) -> str:
    a, b = revisions
    decisive = [
        change.as_text()
        for change in params or ()
        if any(change.key == key or change.key.startswith(f"{key}.") for key in MIXTURE_PARAMS)
    ]
    more = f" and {len(decisive) - 3} more" if len(decisive) > 3 else ""
    why = f" ({'; '.join(decisive[:3])}{more})" if decisive else ""
    return (
        f"{a} and {b}: other mixtures were evaluated, none of {counts[0]} and {counts[1]} is of "
        f"the same videos; compare revisions of the same data, seed, mixture and "
        f"evaluate.mixtures{why}"
    )


def _changed_params(a: Revision, b: Revision, folder: Path) -> list[ParamChange]:
    old, new = (dict(_params(revision, folder)) for revision in (a, b))
    keys = [
        *(key for key in new if key in old),
        *(key for key in new if key not in old),
        *(key for key in old if key not in new),
    ]
    changes = (ParamChange(key, old.get(key, ABSENT), new.get(key, ABSENT)) for key in keys)
    return [change for change in changes if not _equal(change.old, change.new)]


def _params(revision: Revision, folder: Path) -> Iterator[tuple[str, Any]]:
    """The parameters of a revision by dotted key.

    Raises:
        UserError: params.yaml is missing or damaged.
    """
    text = _text(revision, PARAMS_PATH, folder)
    mend = _mend(revision, PARAMS_PATH)
    try:
        values = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, MarkedYAMLError) and error.problem_mark:
            reason = f"line {error.problem_mark.line + 1}: {error.problem}"
        place = _place(revision, PARAMS_PATH, folder)
        raise UserError(f"{place}: not readable as YAML: {reason}; {mend}") from None
    if not isinstance(values, Mapping):
        raise UserError(f"{_place(revision, PARAMS_PATH, folder)}: holds no parameters; {mend}")
    return flattened(values)


def _equal(a: Any, b: Any) -> bool:
    """1 is 1.0, but not true."""
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    return bool(a == b) or repr(a) == repr(b)  # NaN is not equal to itself


def _plain(value: Any) -> Any:
    """A YAML value as JSON can hold it: dates and numbers that are not finite as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _shown(value: Any) -> str:
    if value is ABSENT:
        return Absent.ABSENT.value
    return value if isinstance(value, str) and value and value.isprintable() else _json(value)


def _json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False)


def _table(title: str, rows: Mapping[str, Difference]) -> Iterator[str]:
    width = max(map(len, (title, *rows)))
    yield f"{title:{width}}  mixtures{'A':>8}{'B':>8}{'B - A':>9}{'95 % interval':>18}  B better"
    for name, row in rows.items():
        yield (
            f"{name:{width}}{row.mixtures:10}{row.a:8.2f}{row.b:8.2f}"
            f"{_decibels(row.difference.mean):>9}{_interval(row):>18}{row.better:>10.0%}"
        )


def _interval(row: Difference) -> str:
    if row.mixtures < FEWEST_MIXTURES and row.verdict != SAME:
        return "too few"
    return f"{_decibels(row.difference.low)} to {_decibels(row.difference.high)}"


def _decibels(value: float) -> str:
    """Two decimals, or one digit where they would hide the sign."""
    if value == 0:
        return "0.00"
    return f"{value:+.2f}" if abs(value) >= 0.005 else f"{value:+.1g}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 80, break_long_words=False, break_on_hyphens=False)


def _mixtures(count: int) -> str:
    return "mixture" if count == 1 else "mixtures"
