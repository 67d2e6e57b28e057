"""Write the report: gather what the stages wrote, and lay it out as sections.

A stage that failed or did not run leaves its sections empty, with the reason.
"""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from sop.dataset.index import Video, reported_model
from sop.denoise.results import HELD_OUT_FILE, SWEEP_FILE
from sop.denoise.settings import MethodSettings
from sop.denoise.trial import Trial
from sop.evaluate.listed import evaluated_videos
from sop.evaluate.records import read_record
from sop.model.checkpoint import load_player
from sop.params import Params
from sop.report import charts
from sop.report.example import write_example
from sop.report.mixture_files import MIXTURES_FOLDER, MixtureFileWriter, picture_axes
from sop.report.outputs import details, read_csv, warnings, why_missing
from sop.report.page import PAGE, Link, MixtureFiles, PageContent, Section, write_page
from sop.report.revisions import describe_head
from sop.report.sections.changes import comparison_section, parameter_section
from sop.report.sections.denoise import chosen_settings, denoise_section, denoised_sdr
from sop.report.sections.evaluation import (
    Evaluation,
    localization_section,
    mixture_section,
    read_evaluation,
    result_section,
    scale_section,
    scale_steps,
)
from sop.report.sections.failures import failure_section
from sop.report.sections.groups import groups_section
from sop.report.sections.protocol import protocol
from sop.report.sections.run import data_section, timing_section
from sop.report.sections.sounds import MEDIAN, sounds_of
from sop.report.sections.training import training_section
from sop.runtime.device import one_thread
from sop.runtime.errors import UserError
from sop.runtime.files import make_folder
from sop.runtime.progress import progress
from sop.runtime.stage import host_name, timestamp

RUN_PAGE = "run.html"


def write_report(root: Path, folder: Path, plots: Path, params: Params) -> Path:
    """Write the report on what the stages wrote.

    All files but one are functions of the stage's dependencies. What is not (the commit, times, the
    machine) is in `RUN_PAGE`, with its origin and date; .dvcignore keeps that page out of the
    output.

    Args:
        root: of the repository.
        folder: gets the pages and their files.
        plots: gets `scale.png`, the chart of the scale, and `example.png`, a separated mixture.
        params: parameters of the run.

    Returns:
        The page.
    """
    # DVC removes what an earlier run wrote, but the stage may also run without DVC.
    shutil.rmtree(folder / MIXTURES_FOLDER, ignore_errors=True)
    make_folder(plots)
    denoise, localization = details(root, "denoise"), details(root, "localization")
    sweep = read_csv(root / "metrics/denoise" / SWEEP_FILE, "method", "sdr_change")
    held_out = read_csv(root / "metrics/denoise" / HELD_OUT_FILE, "mixture", "method", "sdr")

    result, mixtures, failures, scale = (
        Section(name, [], empty=why_missing("evaluate"))
        for name in ("Result", "Mixtures", "Failures", "Scale")
    )
    located = Section("Localization", [], empty=why_missing("localize"))
    if evaluation := read_evaluation(root):
        settings, scores = chosen_settings(denoise), evaluation.scores
        files = _write_files(root, folder, plots, params, evaluation, settings)
        if denoise and held_out is not None:
            after = denoised_sdr(denoise, held_out)
            scores = scores.merge(after, on=["mixture", "source"], how="left")
        steps, count = scale_steps(evaluation, held_out, settings, params)
        if steps:
            spec = charts.scale([(step.name, step.sdr, step.kind) for step in steps])
            charts.write_png(spec, plots / "scale.png")
        heard = sounds_of(scores, files, MEDIAN)
        protocol_text = protocol(evaluation.scores, params, evaluation.metrics.get("protocol"))
        result = result_section(evaluation.metrics, evaluation.scores, heard, protocol_text)
        scale = scale_section(steps, count, is_held_out=held_out is not None and len(held_out) > 0)
        mixtures = mixture_section(scores, files, picture_axes(params))
        failures = failure_section(scores, files)
    if localization is not None:
        located = localization_section(localization, params.dataset.source == "urmp")
    denoised = Section("Denoise", [], empty=why_missing("denoise"))
    if denoise is not None and sweep is not None and held_out is not None:
        denoised = denoise_section(denoise, sweep, held_out)

    title = f"The Sound of Pixels: {params.dataset.source}"
    _write_run_page(root, folder, title)
    training = training_section(
        root / "metrics/train/plots/metrics", params.train.evaluate_mixtures
    )
    content = PageContent(
        title=title,
        warnings=warnings(),
        links={RUN_PAGE: "This run"},
        # First what one asks first: how good it is, how it sounds, what is better, what fails.
        sections=[
            result,
            mixtures,
            change_section(),
            failures,
            denoised,
            scale,
            located,
            training,
            data_section(root),
        ],
    )
    return write_page(folder, content)


def change_section() -> Section:
    """Refer to the page on the run: what it compares with is no dependency of the stage."""
    where = Link(
        "Whether the results are better than those of the last commit, with intervals, and which "
        "parameters differ: in the working copy that wrote this report, see",
        f"{RUN_PAGE}#comparison",
        "This run",
    )
    return Section("Changes", [where], title="Better than before?")


def _write_run_page(root: Path, folder: Path, title: str) -> None:
    """Write the page on this run: how it differs from the last commit, times, and the machine."""
    written, (head, is_changed) = timestamp(), describe_head(root)
    changes = ", with uncommitted changes" if is_changed else ""
    comparison = Section("Comparison", [], empty=why_missing("evaluate"))
    if read_evaluation(root):
        comparison = comparison_section(root, head, written)
    groups = groups_section(root)
    content = PageContent(
        title=f"{title}: this run",
        origin=f"Written on {written} on host {host_name()}, from {head}{changes}.",
        links={PAGE: "Results"},
        sections=[
            comparison,
            *([groups] if groups else []),
            parameter_section(root, head),
            timing_section(written),
        ],
    )
    write_page(folder, content, RUN_PAGE)


def _write_files(
    root: Path,
    folder: Path,
    plots: Path,
    params: Params,
    evaluation: Evaluation,
    settings: MethodSettings | None,
) -> dict[int, MixtureFiles]:
    """Write the picture, and the files of the shown mixtures, several at a time."""
    videos: dict[str, Video] = {}
    player = None
    with suppress(UserError):
        videos = evaluated_videos(root / "data/index", root / "data/motion")
    with suppress(UserError):
        player, _ = load_player(reported_model(root / "data/index", root / "data/model"))
    shown = [path for path in evaluation.records if int(path.stem) < params.evaluate.shown]
    if player is not None:
        picture = plots / "example.png"
        write_example(picture, player, shown, evaluation.scores, videos, params)
    players = _with_player([int(path.stem) for path in shown], evaluation.scores, params)

    def write(path: Path) -> tuple[int, MixtureFiles]:
        record = read_record(path)
        denoised = None if settings is None else Trial(record, params).after(settings)
        originals = root / "data/videos"
        writer = MixtureFileWriter(folder, params, videos, originals, player, record)
        return record.number, writer.write(denoised, record.number in players)

    with one_thread(), ThreadPoolExecutor(params.worker_count) as pool:
        return dict(progress(pool.map(write, shown), "report", len(shown), unit="mixture"))


def _with_player(shown: Sequence[int], scores: pd.DataFrame, params: Params) -> set[int]:
    """Choose the mixtures that get a pixel player, evenly from the worst to the best."""
    means = scores.groupby("mixture")["sdr"].mean()
    ranked = [int(number) for number in means.sort_values().index if number in set(shown)]
    count = min(params.report.players, len(ranked))
    return {ranked[round(at)] for at in np.linspace(0, len(ranked) - 1, count)}
