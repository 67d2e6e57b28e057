"""The parameters of params.yaml: typed, and validated before a stage starts its work."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from sop.runtime.errors import UserError
from sop.runtime.log import printable
from sop.runtime.plain_yaml import parse_yaml, yaml_text

PARAMS_PATH = Path("params.yaml")

P = TypeVar("P", bound="InferenceParams")


def _matching(pattern: str, allowed: str) -> AfterValidator:
    """Check a string against a pattern; the error states what is allowed in words."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(allowed)
        return value

    return AfterValidator(check)


def _interval(seconds: list[float]) -> list[float]:
    if len(seconds) != 2 or seconds[0] >= seconds[1]:
        raise ValueError("[begin, end] in seconds, with begin before end")
    return seconds


Activation = Literal["none", "sigmoid", "softmax", "relu", "tanh"]
SoundKind = Literal["unet5", "unet6", "unet7"]
VisionKind = Literal["resnet18fc", "resnet18dilated", "resnet18half"]
SynthesizerKind = Literal["linear", "bias"]
MotionKind = Literal["none", "synchrony"]
Pooling = Literal["maxpool", "avgpool", "attention"]
Net = Literal["sound", "vision", "synthesizer"]
# Maximum number of problems in one message; each element of a long list can be one.
MAX_DESCRIBED = 50

NETS: tuple[Net, ...] = ("sound", "vision", "synthesizer")

# Such as the path of a file, which cannot have the other characters.
Text = Annotated[
    str, Field(min_length=1), _matching(r"[^\x00-\x1f\x7f]+", "a string without control characters")
]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
# Neither 0 nor 1.
ProperFraction = Annotated[float, Field(gt=0, lt=1)]
# At most ten days: timers of the system may not accept much more.
Seconds = Annotated[float, Field(ge=0, le=864_000)]
Timeout = Annotated[Seconds, Field(gt=0)]
# Inside a folder on which stages depend.
ListName = Annotated[
    Text,
    _matching(r"(?!/)(?!(.*/)?\.\.(/|$))[^\\]+", "the path of a file inside of index.split.folder"),
]
WeightsExceptImagenet = Annotated[
    str, _matching("(?!imagenet$).+", "scratch, published or the path of a checkpoint")
]
ListsUrl = Annotated[str, _matching(r"https?://.*\{file\}.*", "a web address that contains {file}")]
ProxyAddress = Annotated[
    str,
    _matching(
        r"(https?|socks4a?|socks5h?)://[^\s/]+/?", "http://host:port, https://... or socks5://..."
    ),
]
SchedulerAddress = Annotated[str, _matching(r"(tcp|tls)://[^\s/]+:\d+", "tcp://host:port")]
FolderName = Annotated[
    str,
    _matching(
        "[A-Za-z0-9][A-Za-z0-9_-]{0,99}",
        "letters, digits, _ and -, beginning with a letter or digit",
    ),
]
Sha256 = Annotated[str, _matching("[0-9a-f]{64}", "64 hexadecimal digits")]

# What is read for one batch; batches of the published experiment have 0.3 GiB.
MAX_BATCH_BYTES = 16 * 2**30

# Motion is the difference between frames, and has to have a course in time.
MIN_MOTION_FRAMES = 4

# The only width that the published code supports.
PUBLISHED_WIDTH = 64

# As in MUSIC-2mix-LogFreq-resnet18dilated-unet7-linear-frames3stride24-maxpool-binary-...
_PUBLISHED_NAME = re.compile(
    r".*-(?P<vision>resnet18\w*)-(?P<sound>unet\d)-(?P<synthesizer>linear|bias)-frames\d+stride\d+"
    r"-(?P<image_pooling>maxpool|avgpool)-.*-channels(?P<channels>\d+)-.*"
)

# Values of `model` that each net of the published model determines.
_PUBLISHED_KEYS: dict[Net, tuple[str, ...]] = {
    "sound": ("sound", "sound_width", "channels"),
    "vision": ("vision", "vision_width", "image_pooling", "channels"),
    "synthesizer": ("synthesizer", "channels"),
}

# Keys of earlier versions, and where their values are now.
RENAMED: dict[str, tuple[str, ...]] = {
    "seed": ("dataset.synthetic.seed", "index.seed", "train.seed", "evaluate.seed", "denoise.seed"),
    "dataset.music": ("dataset.lists", "dataset.fetch"),
    "dataset.lists.most_per_category": ("dataset.lists.max_per_category",),
    "dataset.fetch.at_once": ("dataset.fetch.parallel_downloads",),
    "dataset.fetch.silence_seconds": ("dataset.fetch.stall_timeout_seconds",),
    "dataset.fetch.limit_seconds": ("dataset.fetch.timeout_seconds",),
    "dataset.fetch.back_off_seconds": ("dataset.fetch.backoff_seconds",),
    "dataset.fetch.ask_again": ("dataset.fetch.retry_unavailable",),
    "dataset.fetch.least_share": ("dataset.fetch.min_success_fraction",),
    "extract.limit_seconds": ("extract.timeout_seconds",),
    "extract.limit_mib": ("extract.memory_limit_mib",),
    "index.shortest_seconds": ("index.min_seconds",),
    "index.train_share": ("index.train_fraction",),
    "model.published.address": ("model.published.url",),
    "model.published.sha256.frame": ("model.published.sha256.vision",),
    "train.background": ("train.background_weight",),
    "train.parts": ("train.micro_batches",),
    "train.synchronise_batch_norm": ("train.sync_batch_norm",),
    "train.warmup_share": ("train.warmup_fraction",),
    "train.average": ("train.ema_decay",),
    "train.save_seconds": ("checkpoint_seconds",),
    "train.checkpoint_seconds": ("checkpoint_seconds",),
    "train.non_finite_steps": ("train.max_non_finite_steps",),
    "train.display_every": ("log_every",),
    "train.log_every": ("log_every",),
    "evaluate.localized": ("localize.scenes",),
    "evaluate.localization_scenes": ("localize.scenes",),
    "denoise.tuning_share": ("denoise.tuning_fraction",),
}

# What is allowed, in terms of YAML, for each of pydantic's kinds of errors.
ALLOWED = {
    "bool_type": "true or false",
    "dict_type": "a section with keys",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "an integer",
    "int_type": "an integer",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "a section with keys",
    "multiple_of": "a multiple of {multiple_of}",
    "string_too_short": "a string that is not empty",
    "string_type": "a string",
    "string_unicode": "a string of valid Unicode",
    "too_short": "a list that is not empty",
    "value_error": "{error}",
}


class Section(BaseModel):
    """A section of params.yaml: no unknown keys, no type conversion, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


# All numbers have a maximum, far above any use: a typo must not fill the memory or run for years.


class SyntheticParams(Section):
    """Rendered videos with ground truth."""

    seed: Seed
    solos: Annotated[CountOrZero, Field(le=10_000)]
    duets: Annotated[CountOrZero, Field(le=100_000)]
    same_duets: Annotated[CountOrZero, Field(le=100_000)]
    resting_solos: Annotated[CountOrZero, Field(le=10_000)]
    resting_duets: Annotated[CountOrZero, Field(le=100_000)]
    talkers: Annotated[CountOrZero, Field(le=100_000)]
    talker_pairs: Annotated[CountOrZero, Field(le=100_000)]
    seconds: Annotated[float, Field(ge=2, le=600)]
    width: Annotated[int, Field(ge=32, le=1_920, multiple_of=2)]
    height: Annotated[int, Field(ge=32, le=1_920, multiple_of=2)]
    frame_rate: Annotated[Count, Field(le=60)]
    sample_rate: Annotated[int, Field(ge=8000, le=96000)]

    @property
    def has_videos(self) -> bool:
        """Whether there is a video of any kind."""
        instruments = (self.solos, self.duets, self.same_duets)
        resting = (self.resting_solos, self.resting_duets)
        return any((*instruments, *resting, self.talkers, self.talker_pairs))


class LocalParams(Section):
    """Local videos of the user."""

    folder: Text
    category: FolderName | None
    by_list: bool


class ListsParams(Section):
    """Lists of online videos, and the selection from them."""

    published: ListsUrl
    own: Text
    duets: bool
    categories: list[Text]
    max_per_category: Annotated[Count, Field(le=1_000_000)] | None


class FetchParams(Section):
    """Download of listed videos with yt-dlp."""

    video_url: Annotated[str, _matching(r"https?://.*\{id\}.*", "a web address with {id}")]
    height: Annotated[int, Field(ge=72, le=8_640)]
    format: Text | None
    clip_seconds: Annotated[list[Seconds], AfterValidator(_interval)] | None
    parallel_downloads: Annotated[Count, Field(le=256)]
    stall_timeout_seconds: Timeout
    timeout_seconds: Timeout
    retries: Annotated[int, Field(ge=0, le=100)]
    backoff_seconds: Annotated[NotNegative, Field(le=3_600)]
    rate_limit: Annotated[Count, Field(le=1_000_000_000_000)] | None
    cookies: Text | None
    proxy: ProxyAddress | None
    retry_unavailable: bool
    min_success_fraction: Fraction
    yt_dlp: dict[str, Any]


class DatasetParams(Section):
    """Source of the videos."""

    source: Literal["synthetic", "local", "urmp", "music", "music21", "list"]
    synthetic: SyntheticParams
    local: LocalParams
    lists: ListsParams
    fetch: FetchParams


class ClusterParams(Section):
    """A Dask cluster for download and extraction."""

    scheduler: SchedulerAddress | None


class ExtractParams(Section):
    """Conversion of videos into frames and mono audio."""

    frame_rate: Annotated[float, Field(ge=0.1, le=240)]
    frame_height: Annotated[int, Field(ge=16, le=2_160, multiple_of=2)]
    jpeg_quality: Annotated[int, Field(ge=2, le=31)]
    sample_rate: Annotated[int, Field(ge=4000, le=192000)]
    motion_rate: Annotated[float, Field(ge=0.1, le=240)] | None
    motion_height: Annotated[int, Field(ge=16, le=2_160, multiple_of=2)]
    timeout_seconds: Timeout
    memory_limit_mib: Annotated[int, Field(ge=128, le=1_048_576)]


class SplitParams(Section):
    """Lists of videos that take the place of a drawn split; null for what is drawn."""

    folder: Text
    train: ListName | None
    validation: ListName | None
    test: ListName | None
    leaks: Literal["drop", "keep"]


class IndexParams(Section):
    """Selection of videos, and their split into training, validation and test."""

    seed: Seed
    min_seconds: Annotated[Seconds, Field(gt=0)]
    train_fraction: ProperFraction
    split: SplitParams
    stills: bool
    duets: bool
    duet_categories: dict[Text, Annotated[list[Text], Field(min_length=2)]]


class MixtureParams(Section):
    """Composition of a mixture: number and length of its clips, and their frames."""

    sources: Annotated[int, Field(ge=2, le=16)]
    same_category: bool
    audio_samples: Annotated[int, Field(ge=1_024, le=10_000_000)]
    margin_seconds: Seconds
    frames: Annotated[Count, Field(le=256)]
    frame_stride: Annotated[Count, Field(le=100_000)]
    image_size: Annotated[int, Field(ge=32, le=1_024)]
    motion_size: Annotated[int, Field(ge=16, le=1_024)]


class SpectrogramParams(Section):
    """The short-time Fourier transform and its frequency axis."""

    stft_frame: Annotated[int, Field(ge=16, le=65_536, multiple_of=2)]
    stft_hop: Annotated[Count, Field(le=65_536)]
    log_frequency: bool


class WeightsParams(Section):
    """Initial weights of each net: scratch, imagenet (vision only), published, or a path."""

    sound: WeightsExceptImagenet
    vision: Text
    synthesizer: WeightsExceptImagenet


class PublishedParams(Section):
    """Address and expected hashes of the published model, which has one file per net."""

    url: Annotated[str, _matching(r"https?://[^\s/]+(/\S*)?", "a web address")]
    model: Annotated[str, _matching(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "the name of a folder")]
    sha256: dict[Net, Sha256 | None]


class ModelParams(Section):
    """Architecture of the networks, and their initial weights."""

    sound: SoundKind
    sound_width: Annotated[Count, Field(le=256)]
    sound_init: Literal["published", "he"]
    vision: VisionKind
    vision_width: Annotated[Count, Field(le=256)]
    synthesizer: SynthesizerKind
    channels: Annotated[Count, Field(le=1_024)]
    motion: MotionKind
    image_pooling: Pooling
    image_activation: Activation
    sound_activation: Activation
    output_activation: Activation
    mask: Literal["binary", "ratio"]
    weights: WeightsParams
    published: PublishedParams


class LearningRateParams(Section):
    """Learning rate of each net; the head of the vision net uses the rate of the sound net."""

    sound: Annotated[NotNegative, Field(le=100)]
    vision: Annotated[NotNegative, Field(le=100)]
    synthesizer: Annotated[NotNegative, Field(le=100)]


class TrainParams(Section):
    """Loss, optimizer and schedule of the training run."""

    seed: Seed
    loss: Literal["bce", "l1", "l2"]
    weighted_loss: bool
    spectrum_weight: Annotated[NotNegative, Field(le=1_000_000)]
    background_weight: Annotated[NotNegative, Field(le=1_000_000)]
    repeats: Annotated[Count, Field(le=10_000)]
    epochs: Annotated[Count, Field(le=1_000_000)]
    same_category_share: Fraction | None
    silent_share: Fraction
    shifted_share: Fraction
    share_ramp: Fraction
    motion_start: Annotated[float, Field(ge=0, lt=1)]
    envelope_weight: Annotated[NotNegative, Field(le=1_000_000)]
    batch_size: Annotated[Count, Field(le=65_536)]
    micro_batches: Annotated[Count, Field(le=65_536)]
    devices: Annotated[Count, Field(le=1_024)] | Literal["auto"]
    sync_batch_norm: bool
    precision: Literal["auto", "float32", "bfloat16"]
    compile: bool
    optimizer: Literal["sgd", "adamw"]
    learning_rate: LearningRateParams
    schedule: Literal["steps", "cosine"]
    learning_rate_steps: list[Annotated[Count, Field(le=1_000_000)]]
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[NotNegative, Field(le=100)]
    ema_decay: ProperFraction | None
    max_non_finite_steps: Annotated[CountOrZero, Field(le=1_000_000_000)]
    best_by: Literal["loss", "sdr", "sir", "sar", "si_sdr"]
    evaluate_every: Annotated[Count, Field(le=1_000_000)]
    evaluate_mixtures: Annotated[Count, Field(le=1_000_000)]


class EvaluateParams(Section):
    """Evaluation of the trained model."""

    seed: Seed
    pairs: ListName | None
    mixtures: Annotated[Count, Field(le=1_000_000)]
    shown: Annotated[CountOrZero, Field(le=10_000)]
    same_category: Annotated[CountOrZero, Field(le=1_000_000)]
    silent: Annotated[CountOrZero, Field(le=1_000_000)]
    mask_threshold: ProperFraction
    mask_power: Annotated[Positive, Field(le=1_000)] | None


class LocalizeParams(Section):
    """Localization of sounds in videos with ground truth."""

    scenes: Annotated[CountOrZero, Field(le=100_000)]
    boxes: list[Text]


class DenoiseParams(Section):
    """Residual interference suppression."""

    seed: Seed
    method: Literal["auto", "none", "lms", "nlms", "rls", "renormalise", "wiener"]
    tuning_fraction: ProperFraction
    min_tuning_mixtures: Annotated[Count, Field(le=1_000_000)]
    min_tuning_videos: Annotated[Count, Field(le=1_000_000)]
    taps: Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1)]
    lms_rates: Annotated[list[Annotated[Positive, Field(le=1_000_000)]], Field(min_length=1)]
    nlms_rates: Annotated[list[Annotated[float, Field(gt=0, lt=2)]], Field(min_length=1)]
    rls_forgetting: Annotated[list[Annotated[float, Field(ge=0.5, le=1)]], Field(min_length=1)]
    mask_powers: Annotated[list[Annotated[Positive, Field(le=1_000)]], Field(min_length=1)]
    wiener_frames: Annotated[list[Annotated[Count, Field(le=10_000)]], Field(min_length=1)]
    wiener_iterations: Annotated[list[Annotated[Count, Field(le=10_000)]], Field(min_length=1)]


class ReportParams(Section):
    """The report page."""

    players: Annotated[CountOrZero, Field(le=1_000)]


class InferenceParams(Section):
    """The sections that a trained model is used with; a checkpoint of a model stores them."""

    extract: ExtractParams
    mixture: MixtureParams
    spectrogram: SpectrogramParams
    model: ModelParams

    @model_validator(mode="after")
    def _check_combinations(self) -> "InferenceParams":
        if problems := "; ".join(self._conflicts()):
            raise ValueError(problems)
        return self

    def _conflicts(self) -> Iterator[str]:
        """Describe each combination of values that does not work in one sentence."""
        model, spectrogram, mixture = self.model, self.spectrogram, self.mixture
        bins = spectrogram.stft_frame // 2 + 1
        if spectrogram.stft_hop > bins:
            yield (
                f"spectrogram.stft_hop {spectrogram.stft_hop} is too large for frames to overlap: "
                f"allowed are values up to stft_frame / 2 + 1 = {bins}"
            )
        # unet5 halves rows and columns five times, and so on; the log-frequency axis fits all.
        multiple = 2 ** int(model.sound.removeprefix("unet"))
        columns = 1 + mixture.audio_samples // spectrogram.stft_hop
        rows = None if spectrogram.log_frequency else bins
        if columns % multiple or (rows is not None and rows % multiple):
            shape = f"{columns} columns" if rows is None else f"{rows} rows by {columns} columns"
            yield (
                f"a spectrogram of {shape} (mixture.audio_samples {mixture.audio_samples}, "
                f"spectrogram.stft_hop {spectrogram.stft_hop}, stft_frame "
                f"{spectrogram.stft_frame}) does not fit model.sound {model.sound!r}: allowed are "
                f"multiples of {multiple}"
            )
        clip_bytes = 4 * mixture.audio_samples + 8 * bins * columns
        clip_bytes += 3 * mixture.frames * mixture.image_size**2
        if model.motion != "none":
            rate = self.extract.motion_rate
            if rate is None:
                yield (
                    f"model.motion {model.motion!r} needs motion tracks: set extract.motion_rate, "
                    "such as 16"
                )
            seconds = mixture.audio_samples / self.extract.sample_rate
            moving = round(seconds * (rate or 0))
            if rate is not None and moving < MIN_MOTION_FRAMES:
                yield (
                    f"extract.motion_rate {rate:g} gives {moving} motion frames in a clip of "
                    f"{seconds:.2g} s (mixture.audio_samples): model.motion needs at least "
                    f"{MIN_MOTION_FRAMES}"
                )
            clip_bytes += moving * mixture.motion_size**2
        if (size := self._mixtures_at_once * mixture.sources * clip_bytes) > MAX_BATCH_BYTES:
            yield (
                f"the sounds, spectrograms and pictures of a batch have {size / 2**30:.0f} GiB, "
                f"allowed are {MAX_BATCH_BYTES / 2**30:.0f}: lower train.batch_size or mixture.*, "
                "or set a larger spectrogram.stft_hop"
            )
        if model.weights.vision == "imagenet" and model.vision_width != 64:
            yield (
                f"model.vision_width {model.vision_width} does not fit model.weights.vision "
                "'imagenet': allowed is 64"
            )
        nets = [net for net in NETS if getattr(model.weights, net) == "published"]
        if differences := differences_from_published(model, nets):
            yield (
                f"model.weights 'published' of {', '.join(nets)} does not fit the other values of "
                f"model: set {', '.join(differences)}, or run `sop preset music`, which sets "
                "all of them except weights"
            )

    @property
    def _mixtures_at_once(self) -> int:
        """Number of mixtures that are in memory together."""
        return 1

    def for_inference(self) -> dict[str, Any]:
        """Return the values of these sections alone, as plain values."""
        return self.model_dump(include=set(InferenceParams.model_fields))


class Params(InferenceParams):
    """All parameters of params.yaml."""

    workers: Annotated[Count, Field(le=1_024)] | Literal["auto"]
    cluster: ClusterParams
    device: Annotated[str, _matching(r"auto|cpu|cuda(:\d+)?", "auto, cpu, cuda or cuda:N")]
    log_every: Annotated[Count, Field(le=1_000_000_000)]
    checkpoint_seconds: Seconds
    dataset: DatasetParams
    index: IndexParams
    train: TrainParams
    evaluate: EvaluateParams
    localize: LocalizeParams
    denoise: DenoiseParams
    report: ReportParams

    def _conflicts(self) -> Iterator[str]:
        model, train, dataset = self.model, self.train, self.dataset
        yield from super()._conflicts()
        if model.mask == "binary" and train.loss != "bce":
            yield (
                f"train.loss {train.loss!r} does not fit model.mask 'binary': "
                "allowed are loss bce, or mask ratio with loss l1 or l2"
            )
        if model.mask == "ratio" and train.loss == "bce":
            yield (
                "train.loss 'bce' does not fit model.mask 'ratio', whose values exceed 1: "
                "allowed are loss l1 or l2, or mask binary"
            )
        if train.loss == "bce" and model.output_activation not in ("sigmoid", "softmax"):
            yield (
                f"model.output_activation {model.output_activation!r} does not fit train.loss "
                "'bce': allowed are sigmoid or softmax, whose values are between 0 and 1"
            )
        if train.spectrum_weight > 0 and model.output_activation != "sigmoid":
            yield (
                f"model.output_activation {model.output_activation!r} does not fit "
                "train.spectrum_weight, which is for masks of sigmoid: set train.spectrum_weight: 0"
            )
        if self.evaluate.mask_power is not None and model.output_activation in ("none", "tanh"):
            yield (
                f"model.output_activation {model.output_activation!r} does not fit "
                "evaluate.mask_power, which needs masks that are not negative: allowed are "
                "sigmoid, softmax or relu, or evaluate.mask_power: null"
            )
        if train.batch_size % train.micro_batches:
            yield (
                f"train.batch_size {train.batch_size} is not a multiple of train.micro_batches "
                f"{train.micro_batches}: all micro-batches of a batch must have the same size"
            )
        if dataset.source == "synthetic" and not dataset.synthetic.has_videos:
            yield "dataset.synthetic has no videos: set solos, talkers or another number above 0"
        if train.silent_share + train.shifted_share > 1:
            yield (
                f"train.silent_share {train.silent_share:g} and train.shifted_share "
                f"{train.shifted_share:g} exceed 1 together: a mixture has one of both at most"
            )
        own = dataset.local
        if dataset.source == "local" and own.by_list and own.category is not None:
            yield (
                f"dataset.local.category {own.category!r} does not fit dataset.local.by_list: the "
                "list says the category of each file; set it to null"
            )
        listed = dataset.source in ("list", "music", "music21")
        if self.localize.boxes and listed and dataset.fetch.clip_seconds is not None:
            yield (
                f"localize.boxes does not fit dataset.fetch.clip_seconds "
                f"{dataset.fetch.clip_seconds}: frames are counted from the beginning of the whole "
                "video; set it to null"
            )
        if dataset.source == "synthetic" and dataset.synthetic.seconds < self.index.min_seconds:
            yield (
                f"dataset.synthetic.seconds {dataset.synthetic.seconds} is below "
                f"index.min_seconds {self.index.min_seconds}: every video would be left out"
            )

    @property
    def _mixtures_at_once(self) -> int:
        return self.train.batch_size

    @property
    def worker_count(self) -> int:
        """Number of parallel processes."""
        if self.workers != "auto":
            return self.workers
        has_affinity = hasattr(os, "sched_getaffinity")
        return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def load_params(path: Path = PARAMS_PATH) -> Params:
    """Read and validate params.yaml.

    Raises:
        UserError: the file is missing, is not YAML, or has invalid keys or values; one message
            names all of them, each with its value and what is allowed.
    """
    return validate(Params, read_yaml(path), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read parameters from a YAML file without validating their values.

    Raises:
        UserError: the file is missing, is not YAML, or has no keys.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not found; run from the root of the repository") from None
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: contains no parameters; `git checkout {path}` restores them")
    return values


def validate(kind: type[P], values: Any, name: str) -> P:
    """Validate the values of a params.yaml, or those that `for_inference` returns.

    Args:
        kind: `Params`, or `InferenceParams` for the parameters in the checkpoint of a model.
        values: content of the file.
        name: name of the file, for the error message.

    Raises:
        UserError: some keys or values are invalid; see `load_params`.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        if kind is not Params and any(found["type"] == "missing" for found in error.errors()):
            raise UserError(
                f"{name}: parameters are missing, it is from another version of this project; "
                "train the model again with `dvc repro train`"
            ) from None
        problems = _describe(error, kind)
        if len(problems) > MAX_DESCRIBED:
            problems[MAX_DESCRIBED:] = [f"and {len(problems) - MAX_DESCRIBED} more"]
        raise UserError(f"{name}: {'; '.join(problems)}") from None


def differences_from_published(model: ModelParams, nets: Iterable[Net]) -> list[str]:
    """List the values of `model` that differ from the published model, as its name describes it.

    Loading the weights does not detect all of them: dilation and pooling have no weights.

    Args:
        model: the networks; `published.model` is named as the published code names its models.
        nets: the nets to compare.

    Returns:
        What to set, such as `model.sound unet7 instead of unet5`; empty if the name does not
        follow the published pattern.
    """
    name = _PUBLISHED_NAME.fullmatch(model.published.model)
    if name is None:
        return []
    widths = dict.fromkeys(("sound_width", "vision_width"), str(PUBLISHED_WIDTH))
    published = name.groupdict() | widths
    return [
        f"model.{key} {published[key]} instead of {getattr(model, key)}"
        for key in dict.fromkeys(key for net in nets for key in _PUBLISHED_KEYS[net])
        if str(getattr(model, key)) != published[key]
    ]


def _describe(error: ValidationError, kind: type[BaseModel]) -> list[str]:
    """Return one sentence for each invalid key, in terms of params.yaml."""
    sentences: dict[str, list[str]] = {}
    moved: set[str] = set()
    missing = []
    for finding in error.errors():
        message = ALLOWED.get(finding["type"], finding["msg"]).format(**_limits(finding))
        # Behind these keys, pydantic appends the type that it tried, which is not a key.
        key = printable(".".join(map(str, finding["loc"])))
        key = re.sub(r"^(workers|train\.devices)\..*", r"\1", key)
        key = key.removesuffix(".[key]")
        if not key:
            is_tree = isinstance(finding["input"], dict)
            sentences[message if is_tree else "the parameters are not in sections"] = []
        elif key in RENAMED:
            sentences[f"{key}: this key is now {', '.join(RENAMED[key])}"] = []
            moved.update(RENAMED[key])
        elif finding["type"] in ("extra_forbidden", "invalid_key"):
            sentences[f"{key}: unknown key, remove it or correct its spelling"] = []
        elif finding["type"] == "missing":
            missing.append(key)
        else:
            begin = f"{key}: {yaml_text(finding['input'])} is not allowed, it should be "
            sentences.setdefault(begin, []).append(message)
            if _allows_null(kind, finding["loc"]):
                sentences[begin].append("null")
    # The value of a key that was renamed is there, under its earlier name.
    for key in missing:
        if not any(f"{name}.".startswith(f"{key}.") for name in moved):
            sentences[f"{key}: missing"] = []
    return [begin + " or ".join(choices) for begin, choices in sentences.items()]


def _limits(finding: Mapping[str, Any]) -> dict[str, Any]:
    """Return what pydantic says about an error, by name; 1.0 as 1."""
    found = finding.get("ctx", {})
    return {
        name: f"{value:g}" if isinstance(value, float) else value for name, value in found.items()
    }


def _allows_null(kind: type[BaseModel], keys: tuple[int | str, ...]) -> bool:
    """Tell whether null is a valid value of a key."""
    annotation: Any = kind
    for key in keys:
        fields: Mapping[Any, FieldInfo] = getattr(annotation, "model_fields", {})
        if key not in fields:
            return False
        annotation = fields[key].annotation
    return type(None) in get_args(annotation)
