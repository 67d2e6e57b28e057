"""The denoising methods and settings that compete."""

from itertools import product

from sop.denoise.settings import (
    NONE,
    LmsSettings,
    MethodSettings,
    NlmsSettings,
    RenormaliseSettings,
    RlsSettings,
    WienerSettings,
)
from sop.params import DenoiseParams


def candidates(params: DenoiseParams) -> list[MethodSettings]:
    """List all candidates, in the order of `METHODS`; one method's only if that one is forced."""
    every = [
        *(LmsSettings(*each) for each in product(params.taps, params.lms_rates)),
        *(NlmsSettings(*each) for each in product(params.taps, params.nlms_rates)),
        *(RlsSettings(*each) for each in product(params.taps, params.rls_forgetting)),
        *(RenormaliseSettings(power) for power in params.mask_powers),
        *(
            WienerSettings(*each)
            for each in product(params.mask_powers, params.wiener_frames, params.wiener_iterations)
        ),
    ]
    if params.method in (NONE, "auto"):
        return every
    return [candidate for candidate in every if candidate.method == params.method]
