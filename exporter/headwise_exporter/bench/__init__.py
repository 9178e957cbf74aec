"""How fast graphs run on this machine: sessions of each runtime, interleaved timing, peaks, footprints.

Knows ONNX files and nothing of what is in them. May import `files`, `progress`, `machine` and `errors`, not torch.
"""
