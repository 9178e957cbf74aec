"""A bundle from a finished run: the exact split as a module, ONNX graphs checked against torch, manifest, golden set.

May import `pruning` and what lies below it; never `studies`, `recipes` or a run's folder.
"""
