import difflib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sop.params import load_params
from sop.presets import apply_preset, preset_names
from sop.runtime.errors import UserError
from sop.runtime.plain_yaml import parse_yaml
from tests.support.experiment import ROOT

PRESETS = ROOT / "presets"
TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")

# The published experiment.
PUBLISHED = {
    "index.seed": 1234,
    "train.seed": 1234,
    "evaluate.seed": 1234,
    "extract.frame_rate": 8,
    "extract.sample_rate": 11025,
    "extract.motion_rate": None,
    "index.min_seconds": 20,
    "index.train_fraction": 0.8,
    "mixture.sources": 2,
    "mixture.same_category": True,
    "mixture.audio_samples": 65535,
    "mixture.frames": 3,
    "mixture.frame_stride": 24,
    "mixture.image_size": 224,
    "spectrogram.stft_frame": 1022,
    "spectrogram.stft_hop": 256,
    "spectrogram.log_frequency": True,
    "model.sound": "unet7",
    "model.sound_width": 64,
    "model.sound_init": "published",
    "model.vision": "resnet18dilated",
    "model.vision_width": 64,
    "model.synthesizer": "linear",
    "model.channels": 32,
    "model.motion": "none",
    "model.image_pooling": "maxpool",
    "model.image_activation": "sigmoid",
    "model.sound_activation": "none",
    "model.output_activation": "sigmoid",
    "model.mask": "binary",
    "model.weights.sound": "scratch",
    "model.weights.vision": "imagenet",
    "model.weights.synthesizer": "scratch",
    "train.loss": "bce",
    "train.weighted_loss": True,
    "train.spectrum_weight": 0.0,
    "train.repeats": 100,
    "train.epochs": 100,
    "train.same_category_share": None,
    "train.batch_size": 80,
    "train.micro_batches": 4,
    "train.optimizer": "sgd",
    "train.learning_rate.sound": 1e-3,
    "train.learning_rate.vision": 1e-4,
    "train.learning_rate.synthesizer": 1e-3,
    "train.schedule": "steps",
    "train.learning_rate_steps": [40, 80],
    "train.momentum": 0.9,
    "train.weight_decay": 1e-4,
    "evaluate.mixtures": 256,
    "evaluate.shown": 40,
    "evaluate.mask_threshold": 0.5,
    "evaluate.mask_power": None,
}


@pytest.fixture
def params_path(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def at(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree[name]
    return tree


def foreign(value: Any) -> Any:
    """Return a value of the same type that is not the published one."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value * 3 + 1
        case list():
            return [7, *value]
    return f"other {value}"


def test_preset_names() -> None:
    assert preset_names(PRESETS) == [
        *("default", "motion", "music", "music21", "music25", "paper-small", "speech")
    ]


@pytest.mark.parametrize("name", ["music", "music21"])
def test_preset_writes_all_published_values(params_path: Path, name: str) -> None:
    yaml = YAML()
    tree = yaml.load(TEXT)
    for key, value in PUBLISHED.items():
        section, _, last = key.rpartition(".")
        (at(tree, section) if section else tree)[last] = foreign(value)
    with params_path.open("w", encoding="utf-8") as file:
        yaml.dump(tree, file)

    changes = apply_preset(name, params_path, PRESETS)

    params = load_params(params_path).model_dump()
    assert {key: at(params, key) for key in PUBLISHED} == PUBLISHED
    assert params["dataset"]["source"] == name
    assert {change.partition(":")[0] for change in changes} >= PUBLISHED.keys()


def test_the_default_preset_has_all_values_of_params_yaml() -> None:
    """Write a change of params.yaml into presets/default.yaml too."""
    assert parse_yaml((PRESETS / "default.yaml").read_text("utf-8")) == parse_yaml(TEXT)


def test_the_small_paper_has_the_published_objective_at_the_size_of_the_default(
    params_path: Path,
) -> None:
    apply_preset("music", params_path, PRESETS)
    published = load_params(params_path).model_dump()
    changes = apply_preset("paper-small", params_path, PRESETS)
    small = load_params(params_path).model_dump()
    for key in (
        *("model.sound_init", "model.image_pooling", "model.mask", "model.image_activation"),
        *("train.loss", "train.weighted_loss", "train.spectrum_weight", "train.background_weight"),
        *("evaluate.mask_power", "evaluate.mask_threshold"),
    ):
        assert at(small, key) == at(published, key), key
        assert key not in {change.partition(":")[0] for change in changes}
    default = parse_yaml(TEXT)
    for key in ("model.sound", "model.sound_width", "mixture", "train.repeats", "train.epochs"):
        assert at(small, key) == at(default, key), key


@pytest.mark.parametrize("name", ["motion", "speech"])
def test_a_preset_has_the_other_values_of_its_base(params_path: Path, name: str) -> None:
    apply_preset(name, params_path, PRESETS)
    direct = params_path.read_text("utf-8")
    params = load_params(params_path)
    assert params.model.motion == "synchrony"
    assert params.extract.motion_rate == params.dataset.synthetic.frame_rate
    params_path.write_text(TEXT, encoding="utf-8")
    apply_preset("music", params_path, PRESETS)
    apply_preset(name, params_path, PRESETS)
    assert params_path.read_text("utf-8") == direct
    assert "based_on" not in direct


def test_the_protocol_of_music_is_the_published_experiment_on_lists(params_path: Path) -> None:
    apply_preset("music", params_path, PRESETS)
    changes = apply_preset("music25", params_path, PRESETS)
    assert {change.partition(":")[0] for change in changes} == {
        *("dataset.lists.duets", "index.duets", "index.train_fraction"),
        *("index.split.train", "index.split.test", "evaluate.pairs"),
    }
    assert load_params(params_path).index.split.validation is None
    apply_preset("music", params_path, PRESETS)
    assert load_params(params_path).evaluate.pairs is None


def test_a_base_is_another_preset(params_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "presets"
    folder.mkdir()
    for base in ("own", "nothing"):
        (folder / "own.yaml").write_text(f"based_on: {base}\n")
        with pytest.raises(UserError, match=rf"own\.yaml: based_on: '{base}' is not another"):
            apply_preset("own", params_path, folder)


def test_the_default_preset_leads_back(params_path: Path) -> None:
    for name in ("music", "music21", "music25", "motion", "speech", "default"):
        assert apply_preset(name, params_path, PRESETS)
    assert params_path.read_text("utf-8") == TEXT
    own = TEXT.replace("yt_dlp: {}", "yt_dlp: {geo_bypass: true}").replace(
        "[4, 16, 64, 128]", "[4]"
    )
    assert own.count("geo_bypass") == own.count("[4] ") == 1
    params_path.write_text(own, encoding="utf-8")
    assert len(apply_preset("default", params_path, PRESETS)) == 2
    assert parse_yaml(params_path.read_text("utf-8")) == parse_yaml(TEXT)


def test_changes_are_shown_as_yaml(params_path: Path) -> None:
    changes = apply_preset("music", params_path, PRESETS)
    assert "index.duets: false -> true" in changes
    assert "dataset.source: synthetic -> music" in changes


def test_lists_of_duets(params_path: Path) -> None:
    apply_preset("music21", params_path, PRESETS)
    assert not load_params(params_path).dataset.lists.duets
    apply_preset("music", params_path, PRESETS)
    assert load_params(params_path).dataset.lists.duets


@pytest.mark.parametrize("name", ["music", "music21"])
def test_only_changed_values_differ(params_path: Path, name: str) -> None:
    text = TEXT.replace("learning_rate_steps: [40, 80]", "learning_rate_steps: [4]")
    assert text != TEXT
    params_path.write_text(text, encoding="utf-8")

    changes = apply_preset(name, params_path, PRESETS)

    removed, added = [], []
    for line in difflib.ndiff(text.splitlines(), params_path.read_text("utf-8").splitlines()):
        if line.startswith("- "):
            removed.append(line[2:])
        elif line.startswith("+ "):
            added.append(line[2:])
    assert len(removed) == len(added) == len(changes)
    for before, after, change in zip(removed, added, changes, strict=True):
        key, _, values = change.partition(": ")
        old, _, new = values.partition(" -> ")
        assert before.partition(":")[0] == after.partition(":")[0]
        assert before.partition(":")[0].strip() == key.split(".")[-1]
        assert before.partition("#")[1:] == after.partition("#")[1:]
        assert YAML(typ="safe").load(before.partition(":")[2]) == YAML(typ="safe").load(old)
        assert YAML(typ="safe").load(after.partition(":")[2]) == YAML(typ="safe").load(new)
    assert any("learning_rate_steps: [40, 80]" in line for line in added)


@pytest.mark.parametrize("name", ["music", "music21"])
def test_applying_twice_changes_nothing(params_path: Path, name: str) -> None:
    assert apply_preset(name, params_path, PRESETS)
    once = params_path.read_bytes()
    assert apply_preset(name, params_path, PRESETS) == []
    assert params_path.read_bytes() == once


def test_unknown_preset(params_path: Path) -> None:
    with pytest.raises(UserError, match=r"'musik'.*music, music21"):
        apply_preset("musik", params_path, PRESETS)
    with pytest.raises(UserError, match="none"):
        apply_preset("music", params_path, params_path.parent / "elsewhere")
    assert params_path.read_text("utf-8") == TEXT


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        ("train: {epochs: 0}", r"train\.epochs: 0"),
        ("train: {epoch: 3}", r"train\.epoch: unknown"),
        ("train: 3", "train: 3"),
        ("train: {loss: l1}\nmodel: {mask: binary}", "'l1'"),
    ],
)
def test_invalid_result_writes_nothing(params_path: Path, preset: str, said: str) -> None:
    folder = params_path.parent / "presets"
    folder.mkdir()
    (folder / "bad.yaml").write_text(preset)
    with pytest.raises(UserError, match=f"params.yaml with preset bad: .*{said}"):
        apply_preset("bad", params_path, folder)
    assert params_path.read_text("utf-8") == TEXT
    assert sorted(path.name for path in params_path.parent.iterdir()) == ["params.yaml", "presets"]


@pytest.mark.parametrize(
    "text", ["", "seed: [", "workers: 1\nworkers: 2\n", "train: 3\n", TEXT + "extra: 1\n", None]
)
def test_invalid_params_stay_unchanged(params_path: Path, text: str | None) -> None:
    params_path.unlink() if text is None else params_path.write_text(text)
    with pytest.raises(UserError, match=r"params\.yaml") as error:
        apply_preset("music", params_path, PRESETS)
    assert "\n" not in str(error.value)
    assert (params_path.read_text() if params_path.exists() else None) == text
