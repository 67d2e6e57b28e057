"""Sentences on what the numbers of an evaluation are: mixtures, clips, measures, seeds, intervals.

Published results of one and the same model differ by several dB, because these differ.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sop.params import Params
from sop.report.wording import counted


def protocol(scores: pd.DataFrame, params: Params, listed: Mapping[str, Any] | None = None) -> str:
    """Say how the mixtures were made, and what the intervals contain.

    Args:
        scores: a row for each source: `mixture`, `category`, `video`.
        params: parameters of the run.
        listed: what `metrics/details/evaluate.json` says of published lists; None without lists.
    """
    mixing, rate = params.mixture, params.extract.sample_rate
    pairs = params.evaluate.pairs
    if pairs is None and not mixing.same_category:
        kind = "of different categories"
    elif scores["category"].nunique() > 1:
        kind = "of any categories"
    else:
        kind = "of one category"
    measured = counted(scores["mixture"].nunique(), "mixture")
    side = "test" if params.index.split.test else "validation"
    videos = counted(scores["video"].nunique(), f"{side} video")
    chosen = f"listed in {pairs}" if pairs else f"drawn with evaluate.seed {params.evaluate.seed}"
    middle = "the middle" if pairs is None else "the listed or middle"
    seconds = mixing.audio_samples / rate
    return (
        f"Protocol: {measured} of {mixing.sources} videos {kind}, from {videos}, {chosen}; "
        f"{middle} {seconds:.2f} s of each video at "
        f"{rate / 1000:g} kHz; {_masks(params)}; SDR, SIR and SAR of BSS Eval version 3. One "
        f"training run (train.seed {params.train.seed}): the 95 % intervals are over videos and do "
        f"not contain what other seeds would change.{_leaks(listed)}"
    )


def _leaks(listed: Mapping[str, Any] | None) -> str:
    """Return a sentence on what the lists have in common, after a space; empty without lists."""
    if not listed:
        return ""
    videos, leaked = (listed.get(key) for key in ("test_videos", "test_videos_in_training"))
    # A list of mixtures may leave some of these videos out.
    side = listed.get("measured_on", "measured")
    told = [f"{leaked} of {videos} {side} videos are in training, too"] if videos else []
    mixtures, distinct = (listed.get(key) for key in ("mixtures", "distinct_mixtures"))
    if mixtures:
        touched = listed.get("mixtures_with_training_videos")
        told.append(
            f"{distinct} of {mixtures} listed mixtures are distinct, {touched} have such a video"
        )
    return f" Lists: {'; '.join(told)}." if told else ""


def _masks(params: Params) -> str:
    if params.evaluate.mask_power is not None:
        return f"shares of the masks to the power {params.evaluate.mask_power:g}"
    if params.model.mask == "binary":
        return f"masks are 1 above {params.evaluate.mask_threshold:g}, else 0"
    return "masks as they are"
