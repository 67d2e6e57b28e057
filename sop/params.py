"""The parameters of params.yaml, typed and validated before a stage does anything."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from sop.runtime.errors import UserError

PARAMS_PATH = Path("params.yaml")


def _matching(pattern: str, allowed: str) -> AfterValidator:
    """A string of the given form, refused in words instead of as a regular expression."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(allowed)
        return value

    return AfterValidator(check)


def _clip(seconds: list[float]) -> list[float]:
    if len(seconds) != 2 or seconds[0] >= seconds[1]:
        raise ValueError("null or [begin, end] in seconds, the end after the begin")
    return seconds


Activation = Literal["none", "sigmoid", "softmax", "relu", "tanh"]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
# At most ten days: no clock is set to much more.
Seconds = Annotated[float, Field(gt=0, le=864000)]
NotNegative = Annotated[float, Field(ge=0)]
NotImagenet = Annotated[
    str, _matching("(?!imagenet$).+", "scratch, published or the path of a checkpoint")
]
Sha256 = Annotated[str, _matching("[0-9a-f]{64}", "64 hexadecimal digits")]

# The published code builds its nets of no other width.
PUBLISHED_WIDTH = 64

# As in MUSIC-2mix-LogFreq-resnet18dilated-unet7-linear-frames3stride24-maxpool-binary-...
_PUBLISHED_NAME = re.compile(
    r".*-(?P<vision>resnet18\w*)-(?P<sound>unet\d)-(?P<synthesizer>linear|bias)-frames\d+stride\d+"
    r"-(?P<pooling>maxpool|avgpool)-.*-channels(?P<channels>\d+)-.*"
)

# Where pydantic speaks of Python instead of YAML.
ALLOWED = {"string_too_short": "not empty", "model_type": "a section with keys of its own"}


class Section(BaseModel):
    """A section of params.yaml: no other keys, no guessing at types, no change after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class SyntheticParams(Section):
    """Videos rendered here."""

    solos: Count
    duets: Annotated[int, Field(ge=0)]
    seconds: Annotated[float, Field(ge=2)]
    width: Annotated[int, Field(ge=32, multiple_of=2)]
    height: Annotated[int, Field(ge=32, multiple_of=2)]
    frame_rate: Count
    sample_rate: Annotated[int, Field(ge=8000, le=96000)]


class LocalParams(Section):
    """Videos of the user's own."""

    folder: Annotated[str, Field(min_length=1)]


class ListsParams(Section):
    """Lists of videos that lie elsewhere, and what is taken of them."""

    published: Annotated[str, _matching(r"https?://.*\{file\}.*", "a web address holding {file}")]
    own: Annotated[str, Field(min_length=1)]
    duets: bool
    categories: list[Annotated[str, Field(min_length=1)]]
    max_per_category: Count | None


class FetchParams(Section):
    """How yt-dlp fetches the videos of a list."""

    video_url: Annotated[str, _matching(r"https?://.*\{id\}.*", "a web address holding {id}")]
    height: Annotated[int, Field(ge=72)]
    format: Annotated[str, Field(min_length=1)] | None
    clip_seconds: Annotated[list[NotNegative], AfterValidator(_clip)] | None
    parallel_downloads: Count
    stall_timeout_seconds: Seconds
    timeout_seconds: Seconds
    retries: Annotated[int, Field(ge=0, le=100)]
    backoff_seconds: NotNegative
    rate_limit: Count | None
    cookies: Annotated[str, Field(min_length=1)] | None
    proxy: Annotated[str, Field(min_length=1)] | None
    retry_unavailable: bool
    min_success_fraction: Annotated[float, Field(ge=0, le=1)]
    yt_dlp: dict[str, Any]


class DatasetParams(Section):
    """Where the videos come from."""

    source: Literal["synthetic", "local", "music", "music21", "list"]
    synthetic: SyntheticParams
    local: LocalParams
    lists: ListsParams
    fetch: FetchParams


class ClusterParams(Section):
    """Other machines that download and extract."""

    scheduler: (
        Annotated[str, _matching(r"(tcp|tls)://[^\s/]+:\d+", "null or tcp://host:port")] | None
    )


class ExtractParams(Section):
    """How videos become frames and sound."""

    frame_rate: Positive
    frame_height: Annotated[int, Field(ge=16, multiple_of=2)]
    jpeg_quality: Annotated[int, Field(ge=2, le=31)]
    sample_rate: Annotated[int, Field(ge=4000, le=192000)]
    timeout_seconds: Seconds
    memory_limit_mib: Annotated[int, Field(ge=128)]


class IndexParams(Section):
    """Which videos are used, and on which side."""

    min_seconds: Positive
    train_fraction: Share
    duets: bool


class MixtureParams(Section):
    """What a mixture is made of."""

    sources: Annotated[int, Field(ge=1)]
    same_category: bool
    audio_samples: Annotated[int, Field(ge=1024)]
    margin_seconds: NotNegative
    frames: Count
    frame_stride: Count
    image_size: Annotated[int, Field(ge=32)]


class SpectrogramParams(Section):
    """The short-time Fourier transform and its frequency axis."""

    stft_frame: Annotated[int, Field(ge=16, multiple_of=2)]
    stft_hop: Count
    log_frequency: bool


class WeightsParams(Section):
    """Where each net starts: `scratch`, `imagenet` (vision), `published` or a checkpoint's path."""

    sound: NotImagenet
    vision: Annotated[str, Field(min_length=1)]
    synthesizer: NotImagenet


class PublishedParams(Section):
    """The published model: three files, one for each net."""

    url: Annotated[str, _matching(r"https?://[^\s/]+(/\S*)?", "a web address")]
    model: Annotated[str, _matching(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "the name of a folder")]
    sha256: dict[Literal["sound", "frame", "synthesizer"], Sha256 | None]


class ModelParams(Section):
    """The networks."""

    sound: Literal["unet5", "unet6", "unet7"]
    sound_width: Count
    vision: Literal["resnet18fc", "resnet18dilated", "resnet18half"]
    vision_width: Count
    synthesizer: Literal["linear", "bias"]
    channels: Count
    image_pooling: Literal["maxpool", "avgpool", "attention"]
    image_activation: Activation
    sound_activation: Activation
    output_activation: Activation
    mask: Literal["binary", "ratio"]
    weights: WeightsParams
    published: PublishedParams


class LearningRateParams(Section):
    """Learning rates; the vision net's head follows the sound net's."""

    sound: NotNegative
    vision: NotNegative
    synthesizer: NotNegative


class TrainParams(Section):
    """The training run."""

    loss: Literal["bce", "l1", "l2"]
    weighted_loss: bool
    background_weight: NotNegative
    repeats: Count
    epochs: Count
    batch_size: Count
    micro_batches: Count
    devices: Count | Literal["auto"]
    sync_batch_norm: bool
    precision: Literal["auto", "float32", "bfloat16"]
    compile: bool
    optimizer: Literal["sgd", "adamw"]
    learning_rate: LearningRateParams
    schedule: Literal["steps", "cosine"]
    learning_rate_steps: list[Count]
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NotNegative
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    checkpoint_seconds: NotNegative
    max_non_finite_steps: Annotated[int, Field(ge=0)]
    best_by: Literal["loss", "sdr", "sir", "sar", "si_sdr"]
    evaluate_every: Count
    evaluate_mixtures: Count
    log_every: Count


class EvaluateParams(Section):
    """The evaluation of the trained model."""

    mixtures: Count
    shown: Annotated[int, Field(ge=0)]
    mask_threshold: Share
    localization_scenes: Annotated[int, Field(ge=0)]


class DenoiseParams(Section):
    """What is done about what is left of the other sources."""

    method: Literal["auto", "none", "lms", "nlms", "rls", "renormalise", "wiener"]
    tuning_fraction: Share
    taps: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1)]
    lms_rates: Annotated[list[Positive], Field(min_length=1)]
    nlms_rates: Annotated[list[Annotated[float, Field(gt=0, lt=2)]], Field(min_length=1)]
    rls_forgetting: Annotated[list[Annotated[float, Field(ge=0.5, le=1)]], Field(min_length=1)]
    mask_powers: Annotated[list[Positive], Field(min_length=1)]
    wiener_frames: Annotated[list[Count], Field(min_length=1)]
    wiener_iterations: Annotated[list[Count], Field(min_length=1)]


class ReportParams(Section):
    """The page on a run."""

    players: Annotated[int, Field(ge=0)]


# For models that were trained before there were such sections: nothing of a model depends on them.
NO_REPORT = ReportParams(players=0)
NO_DENOISE = DenoiseParams(
    method="none",
    tuning_fraction=0.5,
    taps=[1],
    lms_rates=[1e-4],
    nlms_rates=[1e-2],
    rls_forgetting=[1.0],
    mask_powers=[1.0],
    wiener_frames=[1],
    wiener_iterations=[1],
)


class Params(Section):
    """All of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    workers: Count | Literal["auto"]
    cluster: ClusterParams
    device: Annotated[str, _matching(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N")]
    dataset: DatasetParams
    extract: ExtractParams
    index: IndexParams
    mixture: MixtureParams
    spectrogram: SpectrogramParams
    model: ModelParams
    train: TrainParams
    evaluate: EvaluateParams
    denoise: DenoiseParams
    report: ReportParams

    @model_validator(mode="after")
    def _pairs_fit(self) -> "Params":
        problems = list(_unfit_pairs(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def worker_count(self) -> int:
        """Processes that work beside each other."""
        if self.workers == "auto":
            if hasattr(os, "sched_getaffinity"):
                return len(os.sched_getaffinity(0))
            return os.cpu_count() or 1
        return self.workers


def load_params(path: Path = PARAMS_PATH) -> Params:
    """Read and validate params.yaml.

    Raises:
        UserError: the file is missing, is not YAML, or holds a wrong key or value; one message
            names every one of them, its value and what is allowed.
    """
    return validate(read_yaml(path, YAML(typ="safe", pure=True)), str(path))


def read_yaml(path: Path, yaml: YAML) -> Any:
    """What a YAML file holds, not yet validated.

    Args:
        path: the file.
        yaml: how it is read.

    Raises:
        UserError: the file is missing or is not YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run from the root of the repository") from None
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, MarkedYAMLError) and error.problem_mark:
            reason = f"line {error.problem_mark.line + 1}: {error.problem}"
        raise UserError(f"{path}: not readable as YAML: {reason}") from None


def validate(values: Any, name: str) -> Params:
    """Validate the values of a whole params.yaml.

    Args:
        values: what the YAML file holds.
        name: the file's name, for the message.

    Raises:
        UserError: as `load_params` says.
    """
    if not isinstance(values, dict):
        raise UserError(f"{name}: holds no parameters; `git checkout {name}` brings them back")
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{name}: {'; '.join(_describe(error))}") from None


def unlike_published(model: ModelParams, nets: Iterable[str]) -> list[str]:
    """What differs in nets from the published ones, as far as the published model's name tells.

    A part that is no weight, such as a dilation, would else be loaded into another net in silence.

    Args:
        model: the networks; `published.model` is named as the published code names its models.
        nets: of `sound`, `vision` and `synthesizer`.

    Returns:
        What to set, such as `model.sound unet7 instead of unet5`; nothing for a name of another
        form.
    """
    name = _PUBLISHED_NAME.fullmatch(model.published.model)
    if name is None:
        return []
    channels = {"channels": int(name["channels"])}
    theirs: dict[str, dict[str, str | int]] = {
        "sound": {"sound": name["sound"], "sound_width": PUBLISHED_WIDTH, **channels},
        "vision": {
            "vision": name["vision"],
            "vision_width": PUBLISHED_WIDTH,
            "image_pooling": name["pooling"],
            **channels,
        },
        "synthesizer": {"synthesizer": name["synthesizer"], **channels},
    }
    wanted = {key: value for net in nets for key, value in theirs[net].items()}
    return [
        f"model.{key} {value} instead of {getattr(model, key)}"
        for key, value in wanted.items()
        if getattr(model, key) != value
    ]


def _unfit_pairs(params: Params) -> list[str]:
    """The pairs of values that exclude each other, each as one sentence with what is allowed."""
    model, train, spectrogram, mixture = (
        params.model,
        params.train,
        params.spectrogram,
        params.mixture,
    )
    problems = []
    if model.mask == "binary" and train.loss != "bce":
        problems.append(
            f"train.loss {train.loss!r} does not fit model.mask 'binary': "
            "allowed are loss bce, or mask ratio with loss l1 or l2"
        )
    if model.mask == "ratio" and train.loss == "bce":
        problems.append(
            "train.loss 'bce' does not fit model.mask 'ratio' (its masks exceed 1): "
            "allowed are loss l1 or l2, or mask binary"
        )
    if train.loss == "bce" and model.output_activation not in ("sigmoid", "softmax"):
        problems.append(
            f"model.output_activation {model.output_activation!r} does not fit train.loss 'bce': "
            "allowed are sigmoid or softmax, which stay between 0 and 1"
        )
    if train.batch_size % train.micro_batches:
        problems.append(
            f"train.batch_size {train.batch_size} is not a multiple of train.micro_batches "
            f"{train.micro_batches}: all micro-batches of a batch have the same size"
        )
    if spectrogram.stft_hop > spectrogram.stft_frame // 2 + 1:
        problems.append(
            f"spectrogram.stft_hop {spectrogram.stft_hop} is too large, frames must overlap: at "
            f"most stft_frame / 2 + 1, {spectrogram.stft_frame // 2 + 1}"
        )
    # unet5 halves rows and columns five times, and so on; the log-frequency axis fits all of them.
    size = 2 ** int(model.sound.removeprefix("unet"))
    columns = 1 + mixture.audio_samples // spectrogram.stft_hop
    rows = None if spectrogram.log_frequency else spectrogram.stft_frame // 2 + 1
    if columns % size or (rows is not None and rows % size):
        shape = f"{columns} columns" if rows is None else f"{rows} rows by {columns} columns"
        problems.append(
            f"a spectrogram of {shape} (mixture.audio_samples {mixture.audio_samples}, "
            f"spectrogram.stft_hop {spectrogram.stft_hop}, stft_frame {spectrogram.stft_frame}) "
            f"does not fit model.sound {model.sound!r}: allowed are multiples of {size}"
        )
    if model.weights.vision == "imagenet" and model.vision_width != 64:
        problems.append(
            f"model.vision_width {model.vision_width} does not fit model.weights.vision "
            "'imagenet': allowed is 64"
        )
    published = [net for net, start in model.weights if start == "published"]
    if unlike := unlike_published(model, published):
        problems.append(
            f"model.weights 'published' of {', '.join(published)} does not fit the rest of model: "
            f"set {', '.join(unlike)}, or `python -m sop preset music`, which sets all but weights"
        )
    if params.dataset.source == "synthetic" and (
        params.dataset.synthetic.seconds < params.index.min_seconds
    ):
        problems.append(
            f"dataset.synthetic.seconds {params.dataset.synthetic.seconds} is below "
            f"index.min_seconds {params.index.min_seconds}: every video would be left out"
        )
    return problems


def _describe(error: ValidationError) -> list[str]:
    """Pydantic's findings in the words of params.yaml: one sentence for each bad key."""
    sentences: list[str] = []
    allowed: dict[tuple[str, str], list[str]] = {}
    for finding in error.errors():
        message = finding["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        message = ALLOWED.get(finding["type"], message)
        # What follows this key names the tried member of a union, not a key of the user's.
        names = finding["loc"]
        if names[:1] == ("workers",) or names[:2] == ("train", "devices"):
            names = names[: 1 + (names[0] == "train")]
        key = ".".join(str(name) for name in names)
        if not key:
            sentences.append(message)
        elif finding["type"] in ("extra_forbidden", "invalid_key"):
            sentences.append(f"{key}: unknown key, remove it or mend its spelling")
        elif finding["type"] == "missing":
            sentences.append(f"{key}: missing")
        else:
            allowed.setdefault((key, repr(finding["input"])), []).append(message)
    sentences += [
        f"{key}: {value} is not allowed, it should be {' or '.join(choices)}"
        for (key, value), choices in allowed.items()
    ]
    return sentences
