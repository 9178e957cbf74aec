"""Labelled images in, a small and explainable vision transformer out, as one bundle."""
