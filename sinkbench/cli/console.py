"""Consoles that read well on a terminal and in a log."""

import logging
import os
import sys

from rich.console import Console

LOG_WIDTH = 120
"""Columns of tables that are written to a file or a pipe."""


def output_console() -> Console:
    """For results, on stdout."""
    return Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH)


def message_console() -> Console:
    """For progress and messages, on stderr."""
    return Console(stderr=True) if sys.stderr.isatty() else Console(stderr=True, width=LOG_WIDTH)


def quiet_libraries() -> None:
    """Keep libraries' remarks out of the output and their progress bars out of logs; call it before importing them."""
    for name in ("lm_eval", "datasets", "transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
