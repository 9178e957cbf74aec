"""Training, fine-tuning and evaluation of a model.

May import `data`, `model` and what lies below them.
"""
