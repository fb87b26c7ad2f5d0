"""Instruments that explain a run: spectra, sharpness, bounds."""

__all__: list[str] = []

CARDS = ()
