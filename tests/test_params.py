import copy
import os
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sop.params import RENAMED, InferenceParams, Params, load_params, validate
from sop.runtime.errors import UserError
from tests.support.experiment import ROOT

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
VALUES = YAML(typ="safe", pure=True).load(TEXT)
REMOVED = object()

# Values that fit each other, so that a test of one value does not violate a second rule.
FITTING = {
    "dataset.synthetic.seconds": 30.0,
    "index.min_seconds": 10.0,
    "mixture.audio_samples": 65535,
    "spectrogram.stft_frame": 1022,
    "spectrogram.stft_hop": 256,
    "spectrogram.log_frequency": True,
    "model.sound": "unet7",
    "model.vision_width": 64,
    "model.output_activation": "sigmoid",
    "model.mask": "binary",
    "train.loss": "bce",
    "train.spectrum_weight": 0.0,
}


PUBLISHED = {"sound": "published", "vision": "published", "synthesizer": "published"}
PUBLISHED_NETS = {
    "model.sound": "unet7",
    "model.sound_width": 64,
    "model.vision": "resnet18dilated",
    "model.image_pooling": "maxpool",
    "model.vision_width": 64,
    "model.synthesizer": "linear",
    "model.channels": 32,
}
PUBLISHED_MODEL = (
    "MUSIC-2mix-LogFreq-resnet18dilated-unet7-linear-frames3stride24-maxpool-binary-"
    "weightedLoss-channels32-epoch100-step40_80"
)


def error_of(values: dict[str, Any]) -> str:
    """Return the error for the values of params.yaml with some replaced; empty if valid."""
    tree = copy.deepcopy(VALUES)
    for key, value in (FITTING | values).items():
        *sections, last = key.split(".")
        section = tree
        for name in sections:
            section = section[name]
        if value is REMOVED:
            del section[last]
        else:
            section[last] = value
    try:
        validate(Params, tree, "params.yaml")
    except UserError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("params.yaml: ")
        return str(error).removeprefix("params.yaml: ")
    return ""


def error_of_file(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load_params(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value).removeprefix(f"{path}: ")


def test_params_in_git_are_valid() -> None:
    assert load_params(ROOT / "params.yaml").dataset.source == "synthetic"


def test_fitting_values_are_valid() -> None:
    assert error_of({}) == ""


def test_every_value_has_a_comment() -> None:
    explained = {0: False}
    missing = []
    for number, line in enumerate(TEXT.splitlines(), start=1):
        indent = len(line) - len(line.lstrip())
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        value, _, comment = line.partition(" #")
        explained[indent + 2] = bool(comment)
        # The comment of a section explains all of its values.
        if not value.rstrip().endswith(":") and not comment and not explained[indent]:
            missing.append(f"line {number}: {line.strip()}")
    assert not missing


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("train.epoch", 3, ["train.epoch: unknown key"]),
        ("train.int", 3, ["train.int: unknown key"]),
        ("extra", {}, ["extra: unknown key"]),
        ("train.7", 7, ["train.7: unknown key"]),
        ("train.epochs", REMOVED, ["train.epochs: missing"]),
        ("evaluate", REMOVED, ["evaluate: missing"]),
        ("evaluate", 5, ["evaluate: 5 ", "section"]),
        ("train.epochs", "ten", ["train.epochs: 'ten'", "integer"]),
        ("train.epochs", "10", ["train.epochs: '10'", "integer"]),
        ("train.epochs", 1.5, ["train.epochs: 1.5", "integer"]),
        ("train.epochs", True, ["train.epochs: true", "integer"]),
        ("train.epochs", None, ["train.epochs: null", "integer"]),
        ("train.epochs", 0, ["train.epochs: 0", "1"]),
        ("train.weighted_loss", 1, ["train.weighted_loss: 1", "true or false"]),
        ("train.loss", "BCE", ["train.loss: 'BCE'", "'bce', 'l1' or 'l2'"]),
        ("train.momentum", 1.0, ["train.momentum: 1.0", "below 1"]),
        ("train.weight_decay", -1e-4, ["train.weight_decay: -0.0001", "0"]),
        ("train.weight_decay", float("inf"), ["train.weight_decay: .inf", "finite"]),
        ("train.weight_decay", float("nan"), ["train.weight_decay: .nan", "finite"]),
        ("train.learning_rate_steps", [40, 0], ["train.learning_rate_steps.1: 0", "1"]),
        ("train.learning_rate_steps", 40, ["train.learning_rate_steps: 40", "list"]),
        ("index.train_fraction", 1, ["index.train_fraction: 1", "below 1"]),
        ("train.seed", -1, ["train.seed: -1", "0"]),
        ("index.seed", 2**32, [f"index.seed: {2**32}", f"{2**32}"]),
        ("workers", 0, ["workers: 0", "1", "'auto'"]),
        ("workers", "many", ["workers: 'many'", "integer", "'auto'"]),
        ("device", "gpu", ["device: 'gpu'", "auto", "cpu", "cuda"]),
        ("dataset.source", "youtube", ["dataset.source: 'youtube'", "'synthetic'", "'music21'"]),
        ("dataset.synthetic.width", 97, ["dataset.synthetic.width: 97", "multiple of 2"]),
        ("dataset.local.folder", "", ["dataset.local.folder: ''", "not empty"]),
        ("dataset.local.folder", "a\0b", [r"dataset.local.folder: 'a\x00b'", "control"]),
        ("dataset.lists.own", "a\ud800", [r"dataset.lists.own: 'a\ud800'", "valid Unicode"]),
        ("model.weights.vision", "a\nb", [r"model.weights.vision: 'a\nb'", "control"]),
        ("dataset.fetch.video_url", "http://host/", ["'http://host/'", "{id}"]),
        ("dataset.lists.published", "{file}", ["dataset.lists.published: '{file}'", "{file}"]),
        ("dataset.lists.published", 3, ["dataset.lists.published: 3", "string"]),
        (
            "index.split.train",
            "/etc/list.csv",
            ["index.split.train", "inside of index.split.folder"],
        ),
        ("index.split.test", "../list.csv", ["index.split.test", "inside of index.split.folder"]),
        ("evaluate.pairs", "a/../../b", ["evaluate.pairs", "inside of index.split.folder"]),
        ("index.split.leaks", "both", ["index.split.leaks: 'both'", "'drop' or 'keep'"]),
        ("dataset.lists.own", "", ["dataset.lists.own: ''", "not empty"]),
        ("dataset.lists.own", None, ["dataset.lists.own: null", "string"]),
        ("dataset.lists.duets", "yes", ["dataset.lists.duets: 'yes'", "true or false"]),
        ("dataset.lists.categories", "flute", ["dataset.lists.categories: 'flute'", "list"]),
        ("dataset.lists.categories", None, ["dataset.lists.categories: null", "list"]),
        ("dataset.lists.categories", ["a", 3], ["dataset.lists.categories.1: 3", "string"]),
        ("dataset.lists.categories", ["a", ""], ["dataset.lists.categories.1: ''", "not empty"]),
        ("dataset.lists.max_per_category", 0, ["dataset.lists.max_per_category: 0", "1"]),
        ("dataset.lists.max_per_category", "all", ["max_per_category: 'all'", "integer"]),
        ("dataset.lists.max_per_category", 1.5, ["max_per_category: 1.5", "integer"]),
        ("dataset.fetch.video_url", "ftp://host/{id}", ["'ftp://host/{id}'", "web address"]),
        ("dataset.fetch.height", 71, ["dataset.fetch.height: 71", "72"]),
        ("dataset.fetch.format", "", ["dataset.fetch.format: ''", "not empty"]),
        (
            "dataset.fetch.clip_seconds",
            [5.0],
            ["dataset.fetch.clip_seconds: [5.0]", "[begin, end]"],
        ),
        ("dataset.fetch.clip_seconds", [1, 2, 3], ["clip_seconds: [1, 2, 3]", "[begin, end]"]),
        ("dataset.fetch.clip_seconds", [], ["dataset.fetch.clip_seconds: []", "[begin, end]"]),
        ("dataset.fetch.clip_seconds", 5.0, ["dataset.fetch.clip_seconds: 5.0", "list"]),
        ("dataset.fetch.clip_seconds", [-1, 5], ["dataset.fetch.clip_seconds.0: -1", "0"]),
        ("dataset.fetch.clip_seconds", [0, float("inf")], ["clip_seconds.1: .inf", "finite"]),
        ("dataset.fetch.clip_seconds", [0, "0:30"], ["clip_seconds.1: '0:30'", "number"]),
        ("dataset.fetch.parallel_downloads", 0, ["dataset.fetch.parallel_downloads: 0", "1"]),
        (
            "dataset.fetch.parallel_downloads",
            "auto",
            ["dataset.fetch.parallel_downloads: 'auto'", "integer"],
        ),
        ("dataset.fetch.stall_timeout_seconds", 0, ["dataset.fetch.stall_timeout_seconds: 0", "0"]),
        ("dataset.fetch.timeout_seconds", 0.0, ["dataset.fetch.timeout_seconds: 0.0", "0"]),
        ("dataset.fetch.timeout_seconds", None, ["dataset.fetch.timeout_seconds: null", "number"]),
        ("dataset.fetch.retries", -1, ["dataset.fetch.retries: -1", "0"]),
        ("dataset.fetch.backoff_seconds", -0.5, ["dataset.fetch.backoff_seconds: -0.5", "0"]),
        ("dataset.fetch.rate_limit", 0, ["dataset.fetch.rate_limit: 0", "1"]),
        ("dataset.fetch.rate_limit", "1M", ["dataset.fetch.rate_limit: '1M'", "integer"]),
        ("dataset.fetch.cookies", "", ["dataset.fetch.cookies: ''", "not empty"]),
        ("dataset.fetch.cookies", True, ["dataset.fetch.cookies: true", "string"]),
        ("dataset.fetch.proxy", "", ["dataset.fetch.proxy: ''", "http://", "or null"]),
        ("dataset.fetch.proxy", "foo", ["dataset.fetch.proxy: 'foo'", "http://"]),
        ("dataset.fetch.proxy", "host:1080", ["dataset.fetch.proxy: 'host:1080'", "http://"]),
        (
            "dataset.fetch.retry_unavailable",
            "no",
            ["dataset.fetch.retry_unavailable: 'no'", "true or false"],
        ),
        (
            "dataset.fetch.min_success_fraction",
            1.01,
            ["dataset.fetch.min_success_fraction: 1.01", "1"],
        ),
        (
            "dataset.fetch.min_success_fraction",
            -0.01,
            ["dataset.fetch.min_success_fraction: -0.01", "0"],
        ),
        ("dataset.fetch.yt_dlp", None, ["dataset.fetch.yt_dlp: null", "section"]),
        ("dataset.fetch.yt_dlp", ["quiet"], ["dataset.fetch.yt_dlp: ['quiet']", "section"]),
        ("dataset.fetch.yt_dlp", "-f best", ["dataset.fetch.yt_dlp: '-f best'", "section"]),
        ("dataset.fetch.yt_dlp", {3: "x"}, ["dataset.fetch.yt_dlp.3", "string"]),
        ("dataset.fetch.sleep", 3, ["dataset.fetch.sleep: unknown key"]),
        ("dataset.music", {}, ["dataset.music: this key is now dataset.lists, dataset.fetch"]),
        ("dataset.fetch", None, ["dataset.fetch: null", "section"]),
        ("cluster", REMOVED, ["cluster: missing"]),
        ("cluster", "tcp://host:8786", ["cluster: 'tcp://host:8786'", "section"]),
        (
            "cluster.scheduler",
            "host:8786",
            ["cluster.scheduler: 'host:8786'", "tcp://host:port or null"],
        ),
        ("cluster.scheduler", "tcp://host", ["cluster.scheduler: 'tcp://host'", "host:port"]),
        ("cluster.scheduler", "tcp://:8786", ["cluster.scheduler: 'tcp://:8786'", "host:port"]),
        ("cluster.scheduler", "tcp://host:port", ["'tcp://host:port'", "host:port"]),
        ("cluster.scheduler", "http://host:8786", ["'http://host:8786'", "tcp://host:port"]),
        ("cluster.scheduler", "tcp://a b:8786", ["'tcp://a b:8786'", "tcp://host:port"]),
        ("cluster.scheduler", "tcp://host:1/x", ["'tcp://host:1/x'", "tcp://host:port"]),
        ("cluster.scheduler", "tcp://host:8786\n", ["cluster.scheduler: 'tcp://host:8786"]),
        ("cluster.scheduler", "", ["cluster.scheduler: ''", "tcp://host:port"]),
        ("cluster.scheduler", 8786, ["cluster.scheduler: 8786", "string"]),
        ("extract.timeout_seconds", 0, ["extract.timeout_seconds: 0", "0"]),
        ("extract.timeout_seconds", None, ["extract.timeout_seconds: null", "number"]),
        ("extract.memory_limit_mib", 127, ["extract.memory_limit_mib: 127", "128"]),
        ("extract.memory_limit_mib", 1024.0, ["extract.memory_limit_mib: 1024.0", "integer"]),
        ("extract.frame_height", 17, ["extract.frame_height: 17", "multiple of 2"]),
        ("extract.motion_height", 45, ["extract.motion_height: 45", "multiple of 2"]),
        ("extract.motion_rate", 0, ["extract.motion_rate: 0", "0.1", "or null"]),
        ("train.same_category_share", 1.1, ["train.same_category_share: 1.1", "1 or null"]),
        ("train.silent_share", None, ["train.silent_share: null", "number"]),
        ("model.motion", None, ["model.motion: null", "'none' or 'synchrony'"]),
        ("model.weights.sound", "imagenet", ["model.weights.sound: 'imagenet'", "scratch"]),
        ("model.weights.synthesizer", "", ["model.weights.synthesizer: ''", "scratch"]),
    ],
)
def test_invalid_key_or_value(key: str, value: object, said: list[str]) -> None:
    message = error_of({key: value})
    for part in said:
        assert part in message
    assert ";" not in message


def numbers() -> dict[str, float]:
    """Return all numbers of params.yaml by key; of a list, its first."""
    found: dict[str, float] = {
        "dataset.lists.max_per_category": 1,
        "dataset.fetch.clip_seconds.1": 1.0,
        "dataset.fetch.rate_limit": 1,
        "extract.motion_rate": 16.0,
        "train.ema_decay": 0.5,
        "train.same_category_share": 0.5,
        "train.devices": 1,
        "workers": 1,
    }
    waiting: list[tuple[str, Any]] = [("", VALUES)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:1]
            waiting += [(f"{key}.{name}".lstrip("."), one) for name, one in inner]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[key] = value
    return found


@pytest.mark.parametrize(("key", "value"), numbers().items())
def test_every_number_has_bounds(key: str, value: float) -> None:
    section, _, last = key.rpartition(".")
    is_list = last.isdecimal()
    for wrong in (10**18, 1e18, -2, float("nan"), float("inf")):
        if isinstance(value, float) or type(wrong) is type(value):
            changed = {section: [wrong, wrong]} if is_list else {key: wrong}
            message = error_of(changed)
            assert message.startswith(f"{section if is_list else key}")
            bound = "at most|below" if wrong in (10**18, 1e18) else "at least|above|finite"
            assert re.search(bound, message), message


@pytest.mark.parametrize(
    "values",
    [
        {"mixture.frames": 256, "mixture.image_size": 1024},
        {"train.batch_size": 65536},
        {"spectrogram.stft_hop": 1, "mixture.audio_samples": 2**20 - 1},
        {"model.motion": "synchrony", "extract.motion_rate": 240.0, "mixture.motion_size": 1024},
    ],
)
def test_batch_that_fills_the_memory(values: dict[str, Any]) -> None:
    message = error_of(values)
    assert re.fullmatch(r"the sounds, .* of a batch have \d+ GiB, allowed are 16: .*", message)


@pytest.mark.parametrize(
    "values",
    [
        {"train.batch_size": 2048, "mixture.frames": 3, "mixture.image_size": 224},
        {"train.batch_size": 64, "mixture.frames": 16, "mixture.image_size": 512},
        {"mixture.audio_samples": 2**20 - 1, "spectrogram.stft_frame": 4094},
        {"dataset.synthetic.solos": 10_000, "evaluate.mixtures": 100_000, "workers": 256},
        {"extract.sample_rate": 96_000, "extract.frame_rate": 60, "extract.frame_height": 1080},
        {"train.epochs": 10_000, "train.repeats": 1_000, "model.sound_width": 256},
        {"extract.memory_limit_mib": 500_000, "mixture.sources": 8},
    ],
)
def test_large_experiments_are_possible(values: dict[str, Any]) -> None:
    assert error_of(values) == ""


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"model.mask": "binary", "train.loss": "l1"},
            ["train.loss 'l1'", "model.mask 'binary'", "loss bce", "mask ratio"],
        ),
        (
            {"model.mask": "ratio", "train.loss": "bce"},
            ["train.loss 'bce'", "model.mask 'ratio'", "l1 or l2", "mask binary"],
        ),
        (
            {"model.output_activation": "relu"},
            ["model.output_activation 'relu'", "'bce'", "sigmoid or softmax"],
        ),
        (
            {
                "model.mask": "ratio",
                "train.loss": "l1",
                "model.output_activation": "tanh",
                "evaluate.mask_power": 2.0,
            },
            ["model.output_activation 'tanh'", "evaluate.mask_power", "sigmoid, softmax or relu"],
        ),
        (
            {"model.output_activation": "softmax", "train.spectrum_weight": 0.5},
            ["model.output_activation 'softmax'", "set train.spectrum_weight: 0"],
        ),
        ({"evaluate.mask_power": 0.0}, ["evaluate.mask_power: 0.0", "or null"]),
        ({"evaluate.mask_power": 1e4}, ["evaluate.mask_power: 10000.0", "at most 1000 or null"]),
        (
            {"model.motion": "synchrony"},
            ["model.motion 'synchrony' needs motion tracks: set extract.motion_rate"],
        ),
        (
            {"model.motion": "synchrony", "extract.motion_rate": 0.5},
            ["extract.motion_rate 0.5 gives 3 motion frames", "at least 4"],
        ),
        (
            {"train.silent_share": 0.6, "train.shifted_share": 0.5},
            ["train.silent_share 0.6", "train.shifted_share 0.5", "exceed 1"],
        ),
        ({"spectrogram.stft_hop": 513}, ["spectrogram.stft_hop 513", "up to", "512"]),
        ({"mixture.audio_samples": 60000}, ["235 columns", "60000", "'unet7'", "multiples of 128"]),
        (
            {"spectrogram.log_frequency": False, "spectrogram.stft_frame": 1024},
            ["513 rows by 256 columns", "1024", "'unet7'", "multiples of 128"],
        ),
        (
            {"model.weights.vision": "imagenet", "model.vision_width": 16},
            ["model.vision_width 16", "'imagenet'", "64"],
        ),
        (
            {"model.weights.sound": "published", "model.sound_width": 16, "model.channels": 8},
            ["of sound ", "set model.sound_width 64 instead of 16, model.channels 32 instead of 8"],
        ),
        (
            {"model.weights.vision": "published", "model.vision": "resnet18fc"},
            ["of vision ", "model.vision resnet18dilated instead of resnet18fc", "preset music"],
        ),
        (
            {"model.weights.vision": "published", "model.image_pooling": "avgpool"},
            ["model.image_pooling maxpool instead of avgpool"],
        ),
        (
            {"model.weights.synthesizer": "published", "model.synthesizer": "bias"},
            ["of synthesizer ", "model.synthesizer linear instead of bias"],
        ),
        (
            {"dataset.fetch.clip_seconds": [10.0, 4.0]},
            ["dataset.fetch.clip_seconds: [10.0, 4.0]", "begin before end"],
        ),
        ({"dataset.fetch.clip_seconds": [4, 4]}, ["clip_seconds: [4, 4]", "begin before end"]),
        (
            {"dataset.synthetic.seconds": 8.0},
            ["dataset.synthetic.seconds 8.0", "index.min_seconds 10.0"],
        ),
        (
            {"dataset.synthetic.solos": 0, "dataset.synthetic.duets": 0},
            ["dataset.synthetic has no videos", "set solos, talkers or another number above 0"],
        ),
    ],
)
def test_invalid_combination(values: dict[str, Any], said: list[str]) -> None:
    message = error_of(values)
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    "values",
    [
        {"spectrogram.stft_hop": 512},
        {"model.sound": "unet5", "mixture.audio_samples": 24575},
        {"model.mask": "ratio", "train.loss": "l2", "model.output_activation": "relu"},
        {"model.output_activation": "softmax"},
        {"model.output_activation": "softmax", "evaluate.mask_power": 2.0},
        {"spectrogram.log_frequency": False},
        {"model.weights.vision": "imagenet"},
        {"model.weights": PUBLISHED} | PUBLISHED_NETS,
        {"model.weights": PUBLISHED, "model.published.model": "ours", "model.sound_width": 8},
        {
            "model.weights": PUBLISHED,
            "model.published.model": PUBLISHED_MODEL.replace("dilated-unet7", "fc-unet6"),
            **PUBLISHED_NETS,
            "model.vision": "resnet18fc",
            "model.sound": "unet6",
        },
        {"model.weights.synthesizer": "published", "model.channels": 32, "model.sound_width": 8},
        {"dataset.synthetic.seconds": 8.0, "dataset.source": "local"},
        {"cluster.scheduler": "tcp://10.0.0.7:8786"},
        {"cluster.scheduler": "tls://scheduler.example.org:8786"},
        {"cluster.scheduler": "tcp://[fe80::1]:8786"},
        {"dataset.source": "list", "dataset.lists.own": "/data/list.json"},
        {"dataset.local.folder": "/home/二胡/my videos\u3000(old)"},
        {"dataset.lists.categories": ["flute", "flute_violin"]},
        {"dataset.lists.max_per_category": 1},
        {"dataset.fetch.clip_seconds": [0, 10]},
        {"dataset.fetch.clip_seconds": [2.5, 2.75]},
        {"dataset.fetch.format": "bv*+ba/b", "dataset.fetch.height": 72},
        {"dataset.fetch.yt_dlp": {"sleep_interval": 3, "extractor_args": {"youtube": {}}}},
        {"dataset.fetch.retries": 0, "dataset.fetch.backoff_seconds": 0},
        {"dataset.fetch.rate_limit": 1, "dataset.fetch.parallel_downloads": 64},
        {"dataset.fetch.min_success_fraction": 0, "dataset.fetch.retry_unavailable": True},
        {"dataset.fetch.min_success_fraction": 1},
        {"dataset.fetch.cookies": "cookies.txt", "dataset.fetch.proxy": "socks5://host:1080"},
        {"extract.timeout_seconds": 0.5, "extract.memory_limit_mib": 128},
        {"workers": 3, "device": "cuda:1", "train.learning_rate_steps": []},
    ],
)
def test_valid_combination(values: dict[str, Any]) -> None:
    assert error_of(values) == ""


def test_foreign_text_in_a_message_is_printable() -> None:
    values = {"train.\x1b[31m\nkey": 1, "train.loss": "\x1b[31m\n", "train.seed": 10**5000}
    assert error_of(values).isprintable()


def test_all_invalid_values_are_named() -> None:
    values = {"train.epoch": 3, "denoise.seed": "x", "mixture": REMOVED, "evaluate.shown": -1}
    message = error_of(values)
    for part in ("train.epoch", "denoise.seed: 'x'", "mixture: missing", "evaluate.shown: -1"):
        assert part in message


@pytest.mark.parametrize("old", RENAMED)
def test_key_of_an_earlier_version_names_the_new_one(old: str) -> None:
    """As in a params.yaml of that version: the new keys are missing."""
    new = RENAMED[old]
    values = dict.fromkeys(new, REMOVED) if old != "dataset.music" else {}
    message = error_of(values | {old: 3})
    assert message == f"{old}: this key is now {', '.join(new)}"


def test_new_names_exist_and_old_ones_do_not() -> None:
    def exists(key: str) -> bool:
        tree = VALUES
        for name in key.split("."):
            if name not in tree:
                return False
            tree = tree[name]
        return True

    assert all(exists(name) for names in RENAMED.values() for name in names)
    assert not any(exists(key) for key in RENAMED)


def test_all_invalid_combinations_are_named() -> None:
    values = {"train.loss": "l2", "spectrogram.stft_hop": 600, "dataset.synthetic.seconds": 8.0}
    message = error_of(values)
    for part in ("train.loss 'l2'", "spectrogram.stft_hop 600", "dataset.synthetic.seconds 8.0"):
        assert part in message


@pytest.mark.parametrize("written", ["1e-3", "1.0e-3", "0.001", "1E-3"])
def test_notations_of_numbers(tmp_path: Path, written: str) -> None:
    path = tmp_path / "params.yaml"
    text, count = re.subn(r"(?m)^(  weight_decay:) \S+", rf"\1 {written}", TEXT)
    assert count == 1
    path.write_text(text, encoding="utf-8")
    assert load_params(path).train.weight_decay == 0.001


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TEXT + "log_every: 3\n", [f"line {len(TEXT.splitlines()) + 1}", '"log_every"', "50"]),
        (TEXT.replace("  epochs:", "\tepochs:"), ["line", "\\t"]),
        ("seed: [1, 2\n", ["YAML", "line"]),
        ("seed: !!python/object/apply:os.getcwd []\n", ["YAML", "os.getcwd"]),
        (TEXT.replace("1234", "9" * 5000, 1), ["line", "integer of at most 63 bits"]),
        ("", ["contains no parameters"]),
        ("# nothing but a comment\n", ["contains no parameters"]),
        ("- a\n- list\n", ["contains no parameters"]),
    ],
    ids=[
        "duplicate key",
        "tab",
        "open bracket",
        "python tag",
        "number",
        "empty",
        "comment",
        "list",
    ],
)
def test_file_without_parameters(tmp_path: Path, text: str, said: list[str]) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    message = error_of_file(path)
    for part in said:
        assert part in message


def test_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(b"seed: \xff\xfe\n")
    assert "not readable" in error_of_file(path)
    assert error_of_file(tmp_path) == "not readable (Is a directory)"


def test_missing_file(tmp_path: Path) -> None:
    assert "not found; run from the root" in error_of_file(tmp_path / "params.yaml")


def test_auto_workers_are_the_available_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    params = validate(Params, VALUES | {"workers": "auto"}, "params.yaml")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 5, 7}, raising=False)
    assert params.worker_count == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert params.worker_count == 6
    assert validate(Params, VALUES | {"workers": 2}, "params.yaml").worker_count == 2


@pytest.mark.parametrize("values", [None, 3, [], "text"])
def test_params_of_a_checkpoint_that_are_no_sections(values: object) -> None:
    with pytest.raises(UserError, match=r"^model\.pt: the parameters are not in sections$"):
        validate(InferenceParams, values, "model.pt")


def test_params_for_inference() -> None:
    params = validate(Params, VALUES, "params.yaml")
    values = params.for_inference()
    assert values.keys() == {"extract", "mixture", "spectrogram", "model"}
    inference = validate(InferenceParams, values, "model.pt")
    assert isinstance(params, InferenceParams)
    assert inference.for_inference() == values
    values["spectrogram"]["stft_hop"] = 513
    with pytest.raises(UserError, match=r"^model\.pt: spectrogram\.stft_hop 513"):
        validate(InferenceParams, values, "model.pt")


def test_a_message_about_a_long_list_is_short() -> None:
    values = copy.deepcopy(VALUES)
    values["dataset"]["lists"]["categories"] = [1] * 1000
    with pytest.raises(UserError, match=r"; and 950 more$") as caught:
        validate(Params, values, "params.yaml")
    assert "categories.49: 1 is not allowed" in str(caught.value)
