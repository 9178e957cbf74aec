"""Serves bundles over gRPC: labels, and which attention head spoke for which label. Never imports torch."""
