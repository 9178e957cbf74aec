"""The commands of `exporter`: their options, what they show, and nothing of what they do.

May import everything below `cli`.
"""
