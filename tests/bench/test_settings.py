"""Settings that fit together, found out before anything heavy is loaded."""

import subprocess
import sys
from dataclasses import replace

import pytest

from sinkbench.errors import UsageError


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"workloads": ("poep",)}, "workload 'poep'"),
        ({"methods": ("vra",)}, "method 'vra'"),
        ({"methods": ("var+piano",)}, "method 'piano'"),
        ({"flips": 3}, "--flips"),
        ({"weights": "none"}, "--weights none"),
        ({"model": "tinny"}, "'tinny'"),
        ({"image_size": (672, 8)}, "672x8"),
        ({"params": {"pai.alpha": 0.3}}, "'pai.alpha' belongs to no method"),
        ({"params": {"var.tua": 3}}, "tua"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, change, words):
    settings.check()
    with pytest.raises(UsageError, match=words):
        replace(settings, **change).check()


def test_checking_loads_nothing_heavy():
    code = "import sys; from sinkbench.bench.settings import Settings; Settings('tiny', methods=('var',)).check()"
    loaded = subprocess.run(
        [sys.executable, "-c", f"{code}; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert {"torch", "transformers"}.isdisjoint(loaded.stdout.split())


def test_quick_settings_are_small(settings):
    quick = replace(settings, images=64, end_to_end=500, flips=300).quick()
    assert (quick.images, quick.end_to_end, quick.flips, quick.new_tokens) == (4, 8, 4, 8)
