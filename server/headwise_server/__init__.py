"""Serves bundles over gRPC: labels, and which attention head spoke for which label.

May import `headwise` (the contract, the bundle format and how commands start). Never imports torch, onnx or
`headwise_exporter`: it knows the exporter through bundles alone.
"""
