"""Measures and terms of the report, in the words of docs/glossary.md.

The page lists them in its glossary, and shows the meaning of a name beside the name itself.
"""

from collections.abc import Mapping

TERMS: Mapping[str, str] = {
    "SDR": (
        "Signal-to-distortion ratio: the energy of the true sound in the estimate, relative to all "
        "other energy, in dB (BSS Eval version 3). It measures the overall quality."
    ),
    "SIR": (
        "Signal-to-interference ratio: the energy of the true sound in the estimate, relative to "
        "the energy that comes from the other sources, in dB."
    ),
    "SAR": (
        "Signal-to-artifacts ratio: the energy that comes from any of the sources, relative to the "
        "energy that comes from none of them, in dB."
    ),
    "SI-SDR": (
        "Scale-invariant SDR: like SDR, but only the overall volume of the estimate may differ "
        "from the true sound. It is stricter than SDR."
    ),
    "Mixture SDR": "The SDR of the unprocessed mixture as the estimate of a source.",
    "SDR improvement": "The SDR of the estimate minus the SDR of the unprocessed mixture.",
    "Denoised SDR": "The SDR after the stage denoise, of mixtures that did not choose its method.",
    "Silent estimates": (
        "Number of separated sounds that are silence. Each counts like the unprocessed mixture, "
        "with at most 0 dB, and is not in the mean of SAR."
    ),
    "Mixture": "The sum of the sounds of several videos. The true sources are known.",
    "Source": "One sound that contributes to a mixture: the sound of one video or player.",
    "Mask": (
        "A number between 0 and 1 for each bin of a spectrogram. Multiplied with the spectrogram "
        "of the mixture, it selects the part that belongs to one source."
    ),
    "Ideal mask": (
        "A mask computed from the true sources. Its result is an upper limit for the separation by "
        "masks. A binary mask consists of zeros and ones, a ratio mask of ratios of magnitudes."
    ),
    "Component": (
        "One of the maps that the sound network computes from the spectrogram of a mixture. "
        "Features of the image weight the components; their sum becomes a mask."
    ),
    "Region": (
        "A group of neighbouring cells of the image that make similar sounds, usually one player."
    ),
    "95 % interval": (
        "A range that contains the true mean with 95 % confidence. Mixtures that share a video "
        "count as dependent."
    ),
}
"""Meaning of each name."""
