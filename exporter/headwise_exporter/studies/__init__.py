"""Controls, verdicts and the page about a run.

May import `pruning` and what lies below it; never `export`, `recipes` or a run's folder.
"""
