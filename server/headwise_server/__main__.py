"""`python -m headwise_server` is the command `headwise-server`."""

from headwise_server.cli import main

main()
