"""Numbers with the noun that they count."""


def counted(count: int, noun: str) -> str:
    """Return `1 mixture`, `2 mixtures` and so on."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def decibels(value: float) -> str:
    """Return `-1.25 dB` with a minus sign."""
    return f"{value:.2f} dB".replace("-", "\N{MINUS SIGN}")
