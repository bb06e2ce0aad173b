"""The cache of models that are not shipped: whole folders or none, made once."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from sinkbench import downloads
from sinkbench.adapters import check_available, resolve_model
from sinkbench.downloads import ASSETS, Asset, asset_folder, cache_folder, cache_path, fetch
from sinkbench.errors import UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SINKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def toy(monkeypatch):
    """An asset called toy; `builds` counts, and `fail` lets it end in an error half-way."""
    toy = SimpleNamespace(builds=0, fail=False, source=None)

    def build(folder: Path, source: Path | None) -> None:
        toy.builds, toy.source = toy.builds + 1, source
        (folder / "first").write_text("1")
        if toy.fail:
            raise OSError("disk full")
        (folder / "second").write_text("2")

    toy.build = build
    monkeypatch.setitem(sys.modules, "toy_asset", toy)
    monkeypatch.setitem(ASSETS, "toy", Asset("a toy", "1", 2, "toy_asset:build"))
    return toy


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_it_is_made_once(toy, cache):
    folder = fetch("toy")
    assert folder == fetch("toy") == asset_folder("toy") == cache / "toy-1"
    assert names(folder) == ["first", "second"]
    assert names(cache) == ["toy-1"]
    assert toy.builds == 1


def test_another_version_is_another_folder(toy, monkeypatch):
    old = fetch("toy")
    monkeypatch.setitem(ASSETS, "toy", Asset("a toy", "2", 2, "toy_asset:build"))
    assert fetch("toy") != old
    assert toy.builds == 2


def test_a_failed_build_leaves_nothing(toy, cache):
    toy.fail = True
    with pytest.raises(OSError, match="disk full"):
        fetch("toy")
    assert names(cache) == []
    with pytest.raises(UsageError, match="toy is not on this machine") as raised:
        asset_folder("toy")
    assert raised.value.hint == "sinkbench assets fetch toy"
    toy.fail = False
    assert names(fetch("toy")) == ["first", "second"]


def test_a_killed_build_leaves_no_half_folder(toy, cache):
    code = """
import os, signal, sys, types
from sinkbench import downloads
def build(folder, source):
    (folder / "rest").write_text("")
    os.kill(os.getpid(), signal.SIGKILL)
sys.modules["toy_asset"] = types.SimpleNamespace(build=build)
downloads.ASSETS["toy"] = downloads.Asset("a toy", "1", 2, "toy_asset:build")
downloads.fetch("toy")
"""
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ)).returncode == -signal.SIGKILL
    assert not cache_path("toy").exists()
    assert names(fetch("toy")) == ["first", "second"]
    assert names(cache) == ["toy-1"]


def test_the_users_file_reaches_the_builder(toy, tmp_path):
    with pytest.raises(UsageError, match=r"--from .*mine\.whl is no file"):
        fetch("toy", tmp_path / "mine.whl")
    (tmp_path / "mine.whl").touch()
    fetch("toy", tmp_path / "mine.whl")
    assert toy.source == tmp_path / "mine.whl"


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UsageError, match="unknown asset 'smolm2'") as raised:
        fetch("smolm2")
    assert "smollm2" in raised.value.hint


def test_a_cache_that_cannot_be_written_is_named(toy, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SINKBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"the cache .*file cannot be written") as raised:
        fetch("toy")
    assert "SINKBENCH_CACHE" in raised.value.hint


@pytest.mark.parametrize(
    ("platform", "xdg", "expected"),
    [
        ("linux", "", ".cache/sinkbench"),
        ("linux", "else", "else/sinkbench"),
        ("darwin", "", "Library/Caches/sinkbench"),
    ],
)
def test_the_platforms_cache_is_the_default(platform, xdg, expected, monkeypatch, tmp_path):
    monkeypatch.delenv("SINKBENCH_CACHE")
    monkeypatch.setattr(downloads.sys, "platform", platform)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / xdg) if xdg else "")
    assert cache_folder() == tmp_path / expected


@pytest.mark.parametrize("name", ASSETS)
def test_every_builder_is_there(name):
    module, _, function = ASSETS[name].builder.partition(":")
    assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_a_preset_says_how_to_fetch_its_model():
    preset = resolve_model("smollm2-135m")
    assert preset.is_local
    assert preset.location == str(cache_path("smollm2"))
    with pytest.raises(UsageError, match="not on this machine") as raised:
        check_available(preset)
    assert raised.value.hint == "sinkbench assets fetch smollm2"
