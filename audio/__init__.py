"""Samples to spectra: reading, transforms, augmentation, fingerprints."""
