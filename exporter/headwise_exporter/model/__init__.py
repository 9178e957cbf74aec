"""The model, what it says of its own anatomy, its weights and where they may start from.

May import `files`, `progress` and `distributed`; never `data`.
"""
