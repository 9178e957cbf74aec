"""`python -m headwise_exporter` is the command `exporter`."""

from headwise_exporter.cli import main

main()
