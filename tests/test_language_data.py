"""NLTK's data: unpacked, downloaded, and what is said when neither works."""

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from shared_data import shared

from sinkbench import language_data
from sinkbench.errors import UsageError
from sinkbench.language_data import CATEGORIES, fetch_nltk, missing_nltk, nltk_folder, unpack


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NLTK_DATA", f"{tmp_path / 'data'}:/elsewhere")
    return tmp_path / "data"


def tar(path, names=CATEGORIES, root="nltk_data/"):
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            entry = tarfile.TarInfo(f"{root}{CATEGORIES[name]}/{name}/file")
            entry.size = len(name)
            archive.addfile(entry, io.BytesIO(name.encode()))
        archive.addfile(tarfile.TarInfo(f"{root}more/file"))
    return path


def test_an_archive_is_unpacked(tmp_path, folder):
    assert missing_nltk(folder) == list(CATEGORIES)
    assert fetch_nltk(tar(tmp_path / "a.tar.gz")) == folder == nltk_folder()
    assert missing_nltk(folder) == []
    assert (folder / "corpora" / "wordnet" / "file").read_text() == "wordnet"
    assert sorted(path.name for path in folder.iterdir()) == ["corpora", "taggers", "tokenizers"]
    (folder / "corpora" / "wordnet" / "file").write_text("mine")
    fetch_nltk(tar(tmp_path / "b.tar.gz", root=""))
    assert (folder / "corpora" / "wordnet" / "file").read_text() == "mine"


def test_a_zip_of_nltks_own_zips(tmp_path, folder):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, category in CATEGORIES.items():
            archive.writestr(f"deep/nltk_data/{category}/{name}.zip", "packed")
    fetch_nltk(tmp_path / "a.zip")
    assert missing_nltk(folder) == []
    assert (folder / "corpora" / "wordnet.zip").is_file()


def test_an_archive_that_lacks_one(tmp_path, folder):
    with pytest.raises(UsageError, match="does not hold NLTK's wordnet"):
        fetch_nltk(tar(tmp_path / "a.tar.gz", ["punkt_tab", "averaged_perceptron_tagger_eng"]))
    assert missing_nltk(folder) == list(CATEGORIES)
    assert list(folder.iterdir()) == []


def test_archives_that_are_none(tmp_path):
    (tmp_path / "a.zip").write_text("<html>")
    with pytest.raises(UsageError, match=r"a\.zip is no tar or zip archive"):
        fetch_nltk(tmp_path / "a.zip")
    with pytest.raises(UsageError, match=r"--from .*none is no file"):
        fetch_nltk(tmp_path / "none")


@pytest.mark.parametrize("outside", ["../../outside", "/outside", "a/../../outside"])
def test_an_archive_cannot_write_elsewhere(tmp_path, outside):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(outside))
    with pytest.raises(UsageError, match="no tar or zip archive that can be unpacked"):
        fetch_nltk(tmp_path / "a.tar")
    assert not list(tmp_path.rglob("outside"))
    assert not Path("/outside").exists()


def test_links_of_an_archive_are_left_out(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("link/file"))
    unpack(tmp_path / "a.tar", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["link", "file"]
    assert not (tmp_path / "file").exists()


def test_only_what_is_missing_is_downloaded(monkeypatch, folder):
    (folder / "corpora" / "wordnet").mkdir(parents=True)
    asked = []
    monkeypatch.setattr("nltk.download", lambda name, where, **_: asked.append((name, where)) or True)
    fetch_nltk()
    assert asked == [("punkt_tab", str(folder)), ("averaged_perceptron_tagger_eng", str(folder))]


def test_without_a_network_it_says_how_to_bring_an_archive(monkeypatch):
    def offline(*args, **kwargs):
        raise ValueError("Error loading punkt_tab: <urlopen error\nno route>")

    monkeypatch.setattr("nltk.download", offline)
    with pytest.raises(UsageError, match=r"punkt_tab cannot be downloaded: .* no route") as refused:
        fetch_nltk()
    assert "sinkbench data nltk --from" in refused.value.hint


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="cannot be written") as refused:
        fetch_nltk()
    assert "NLTK_DATA" in refused.value.hint


def test_without_nltk_data_in_the_environment_nltks_own_folder_is_taken(monkeypatch):
    monkeypatch.delenv("NLTK_DATA")
    monkeypatch.setattr("nltk.downloader.Downloader.default_download_dir", lambda self: "/usr/share/nltk_data")
    assert str(language_data.nltk_folder()) == "/usr/share/nltk_data"


def test_the_command_makes_the_nltk_lemmatizer_work(folder):
    command = [sys.executable, "-m", "sinkbench", "data", "nltk", "--from", str(shared("nltk_data.tar.gz"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, str(folder)), done.stderr
    code = "from sinkbench.scoring.lemmatize import *; print(nltk_lemmas('Two Dogs', ()), nltk_nouns('Two dogs ran'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "['two', 'dog'] ['dog']", done.stderr
