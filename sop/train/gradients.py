"""Forward and backward pass of a batch: loss, micro-batches and precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from sop.dataset.mixtures import Batch
from sop.model.pixelplayer import PixelPlayer, Spectra, normalize_frames, separation_loss
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
        Scalar: the loss of the sources, without that of their backgrounds.
    """
    player = unwrap(model)
    player.train()
    total = torch.zeros((), device=device)
    bfloat16 = uses_bfloat16(params.train, device)
    weight = params.train.background_weight
    parts = zip(batch.audio.chunk(micro_batches), batch.frames.chunk(micro_batches), strict=True)
    for number, (audio, frames) in enumerate(parts, start=1):
        spectra = player.spectra(audio.to(device, non_blocking=True))
        true_masks = player.true_masks(spectra)
        pixels = normalize_frames(frames.to(device, non_blocking=True))
        with _gradient_exchange(model, enabled=number == micro_batches):
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                logits = model(spectra.magnitude, pixels, weight > 0)
            loss, background = _losses(logits.float(), spectra, true_masks, params)
            ((loss + weight * background) / micro_batches).backward()
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


def _losses(
    logits: Tensor, spectra: Spectra, true_masks: Tensor, params: Params
) -> tuple[Tensor, Tensor | float]:
    """Return the losses of the sources and of their backgrounds, whose true masks are zero.

    Max pooling alone does not determine the masks of pixels without an instrument.
    """
    sources = true_masks.shape[1]
    loss = separation_loss(logits[:, :sources], spectra, true_masks, params.model, params.train)
    backgrounds = logits[:, sources:]
    if not backgrounds.shape[1]:
        return loss, 0.0
    silence = torch.zeros_like(true_masks)
    return loss, separation_loss(backgrounds, spectra, silence, params.model, params.train)


def _gradient_exchange(model: nn.Module, enabled: bool) -> AbstractContextManager[Any]:
    """Let ranks exchange gradients once per step, with the last micro-batch."""
    if isinstance(model, DistributedDataParallel) and not enabled:
        return model.no_sync()
    return nullcontext()
