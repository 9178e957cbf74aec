"""Stubs of the Open Inference Protocol, generated from `proto/inference` by `scripts/stubs`."""
