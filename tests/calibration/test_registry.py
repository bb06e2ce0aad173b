"""Calibrators of other distributions."""

from importlib.metadata import EntryPoint

import pytest

from sinkbench.calibration import registry
from sinkbench.calibration.base import Calibrator
from sinkbench.calibration.iri import TraceRates
from sinkbench.errors import UsageError


@pytest.fixture
def entries(monkeypatch):
    """Entry points that the next look finds."""
    found = []
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found if group == registry.GROUP else [])
    registry._plugins.cache_clear()
    yield found
    registry._plugins.cache_clear()


def test_plug_ins_are_found_and_loaded_when_asked_for(entries):
    entries.append(EntryPoint("halve", "sinkbench.calibration.base:Calibrator", registry.GROUP))
    entries.append(EntryPoint("broken", "no_such_package:Thing", registry.GROUP))
    entries.append(EntryPoint("odd", "sinkbench.errors:UsageError", registry.GROUP))
    assert registry.calibrator_names() == ["act", "broken", "debias", "dyvte", "halve", "iri", "odd", "var", "vflowopt"]
    assert registry.calibrator_class("halve") is Calibrator
    with pytest.raises(UsageError, match=r"calibrator of broken .* is broken: ModuleNotFoundError"):
        registry.calibrator_class("broken")
    with pytest.raises(UsageError, match=r"calibrator of odd .* no subclass"):
        registry.calibrator_class("odd")


def test_a_plug_in_cannot_take_a_name_that_is_taken(entries, caplog):
    entries.append(EntryPoint("iri", "sinkbench.errors:UsageError", registry.GROUP))
    assert registry.calibrator_names() == ["act", "debias", "dyvte", "iri", "var", "vflowopt"]
    assert registry.calibrator_class("iri") is TraceRates
    assert "'iri'" in caplog.text
