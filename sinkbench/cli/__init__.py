"""The `sinkbench` command: one file per sub-command, heavy imports inside the functions."""


def main() -> None:
    """Entry point of the installed script."""
    import sys

    from sinkbench.cli.app import app
    from sinkbench.cli.failure import guarded

    sys.exit(guarded(app))
