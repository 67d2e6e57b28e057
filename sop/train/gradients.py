"""Forward and backward pass of a batch: loss, micro-batches and precision."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from sop.dataset.mixtures import Batch
from sop.model.pixelplayer import (
    PixelPlayer,
    Prediction,
    envelope_loss,
    normalize_frames,
    separation_loss,
    spectrum_loss,
)
from sop.params import Params, TrainParams
from sop.runtime.device import cpu_capabilities


def compute_gradients(
    model: nn.Module, batch: Batch, params: Params, device: torch.device, micro_batches: int = 1
) -> Tensor:
    """Add the gradients of a batch to the parameters of a model, and return the loss.

    Each micro-batch has its own batch statistics, and the gradients are their mean. This equals
    the published data-parallel training on as many GPUs.

    Args:
        model: a `PixelPlayer`, possibly wrapped in `DistributedDataParallel`.
        batch: this rank's share of a batch.
        params: model, loss and precision.
        device: device of the model.
        micro_batches: number of micro-batches in this rank's share.

    Returns:
        Scalar: the loss of the masks of the sources, without the other terms of the objective.
    """
    player = unwrap(model)
    wrapped = model if isinstance(model, DistributedDataParallel) else None
    player.train()
    total = torch.zeros((), device=device)
    bfloat16 = uses_bfloat16(params.train, device)
    settings, weight = (params.model, params.train), params.train.background_weight
    for number, part in enumerate(batch.chunks(micro_batches), start=1):
        part = part.to(device)
        spectra = player.spectra(part.audio)
        # The frames of a source that is not heard have nothing to do with the mixture.
        true_masks = player.true_masks(spectra) * part.heard[..., None, None]
        sources = true_masks.shape[1]
        pixels = normalize_frames(part.frames)
        # Ranks exchange gradients once per step, with the last micro-batch.
        with wrapped.no_sync() if wrapped and number < micro_batches else nullcontext():
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                predicted: Prediction = model(spectra.magnitude, pixels, weight > 0, part.motion)
            logits = predicted.logits.float()
            loss = separation_loss(logits[:, :sources], spectra, true_masks, *settings)
            objective = loss
            if weight > 0:
                # Max pooling alone does not determine the masks of pixels without an instrument.
                silence = torch.zeros_like(true_masks)
                background = separation_loss(logits[:, sources:], spectra, silence, *settings)
                objective = loss + weight * background
            if params.train.spectrum_weight > 0:
                objective = objective + params.train.spectrum_weight * spectrum_loss(
                    logits[:, :sources], spectra, part.heard
                )
            if predicted.envelopes is not None:
                objective = objective + params.train.envelope_weight * envelope_loss(
                    predicted.envelopes.float(), spectra, part.heard
                )
            (objective / micro_batches).backward()
        total += loss.detach() / micro_batches
    return total


def uses_bfloat16(params: TrainParams, device: torch.device) -> bool:
    """Return True if the networks compute in bfloat16.

    With `precision: auto`, this is where training in bfloat16 is faster than in float32. A CPU is
    faster only if it multiplies bfloat16 matrices (AMX). With dot products alone (AVX512-BF16), a
    step was measured to be slower, see benchmarks/.
    """
    if params.precision != "auto":
        return params.precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(cpu_capabilities().get("amx_bf16"))


def unwrap(model: nn.Module) -> PixelPlayer:
    """Return the model inside `DistributedDataParallel` or `AveragedModel`."""
    player = model.module if isinstance(model, DistributedDataParallel | AveragedModel) else model
    assert isinstance(player, PixelPlayer)
    return player
