"""Masks over connections, criteria for removal, and removal for real.

May import `nodes` and what lies below it.
"""
