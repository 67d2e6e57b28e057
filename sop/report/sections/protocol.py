"""Sentences on what the numbers of an evaluation are: mixtures, clips, measures, seeds, intervals.

Published results of one and the same model differ by several dB, because these differ.
"""

import pandas as pd

from sop.params import Params
from sop.report.wording import counted


def protocol(scores: pd.DataFrame, params: Params) -> str:
    """Say how the mixtures were made, and what the intervals contain.

    Args:
        scores: a row for each source: `mixture`, `category`, `video`.
        params: parameters of the run.
    """
    mixing, rate = params.mixture, params.extract.sample_rate
    if not mixing.same_category:
        kind = "of different categories"
    elif scores["category"].nunique() > 1:
        kind = "of any categories"
    else:
        kind = "of one category"
    measured = counted(scores["mixture"].nunique(), "mixture")
    videos = counted(scores["video"].nunique(), "validation video")
    seconds = mixing.audio_samples / rate
    return (
        f"Protocol: {measured} of {mixing.sources} videos {kind}, from {videos}, drawn with "
        f"evaluate.seed {params.evaluate.seed}; the middle {seconds:.2f} s of each video at "
        f"{rate / 1000:g} kHz; {_masks(params)}; SDR, SIR and SAR of BSS Eval version 3. One "
        f"training run (train.seed {params.train.seed}): the 95 % intervals are over videos and do "
        "not contain what other seeds would change."
    )


def _masks(params: Params) -> str:
    if params.evaluate.mask_power is not None:
        return f"shares of the masks to the power {params.evaluate.mask_power:g}"
    if params.model.mask == "binary":
        return f"masks are 1 above {params.evaluate.mask_threshold:g}, else 0"
    return "masks as they are"
