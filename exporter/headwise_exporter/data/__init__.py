"""Labelled images: the data sets, their decoding, their splits, batches on the device, augmentation.

May import `files`, `progress` and `distributed`; never `model`.
"""
