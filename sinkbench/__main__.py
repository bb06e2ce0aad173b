"""`python -m sinkbench` is `sinkbench`."""

from sinkbench.cli import main

main()
