"""`sinkbench data`: what is there, and what an offline machine needs."""

import pytest
from hub_data import jpeg
from pope_folder import image_name, write_pope
from table_task import fake_hub, install, write_colours
from typer.testing import CliRunner

from sinkbench.cli import data
from sinkbench.cli.app import app
from sinkbench.errors import UsageError


def invoke(*arguments):
    """In this process, where tasks and hub are those of the test."""
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def test_check_of_whole_and_broken_data(sinkbench, tmp_path):
    write_pope(tmp_path)
    for image in range(2):
        (tmp_path / image_name(image)).write_bytes(jpeg(image))
    done = sinkbench("data", "check", "pope", "--data-dir", tmp_path, "--images")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "file: coco_pope_random.json, 4 rows, 0.0 MB" in lines
    assert "rows: 12" in lines
    assert "images: 2 of 2 are there, 2 decoded" in lines
    assert lines[-1].startswith("fingerprint: ")

    (tmp_path / image_name(0)).unlink()
    (tmp_path / image_name(1)).unlink()
    done = sinkbench("data", "check", "pope", "--data-dir", tmp_path)
    assert "refuses a folder without any of its images" in " ".join(done.stderr.replace("│", " ").split())
    (tmp_path / image_name(1)).write_bytes(b"nothing")
    done = sinkbench("data", "check", "pope", "--data-dir", tmp_path, "--images")
    assert done.returncode == 2
    assert f"missing image: {image_name(0)}" in done.stdout
    assert f"undecodable image: {image_name(1)}: " in done.stdout
    assert "1 missing images, 1 undecodable images" in " ".join(done.stderr.replace("│", " ").split())


def test_the_first_twenty_broken_rows_are_named_and_all_counted(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path / "tasks")
    write_colours(tmp_path / "data", {index: {"answer": None} for index in range(25)}, n=30)
    done = invoke("check", "colours", "--data-dir", tmp_path / "data")
    assert isinstance(done.exception, UsageError)
    assert "25 broken rows" in done.exception.message
    named = [line for line in done.stdout.splitlines() if line.startswith("broken row: ")]
    assert len(named) == data.SHOWN + 1
    assert named[0] == "broken row: a-0: answer is null"
    assert named[-1] == "broken row: and 5 more"


def test_export_and_check_of_what_it_wrote(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path / "tasks")
    fake_hub(monkeypatch, tmp_path / "hub")
    done = invoke("export", "colours", "--out", tmp_path / "out", "--set", "colours.revision=abc123")
    assert done.exit_code == 0, done.exception
    assert f"4 rows of somebody/colours at abc123 in {tmp_path / 'out'} (written; MANIFEST.json)." in done.stdout
    assert "sinkbench eval -m MODEL -t colours --data-dir DIR" in done.stdout
    again = invoke("export", "colours", "--out", tmp_path / "out")
    assert "was whole already" in again.stdout
    assert invoke("check", "colours", "--data-dir", tmp_path / "out", "--images").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "poop"], ["unknown task 'poop'"]),
        (["check", "pope"], ["hub cache does not hold", "sinkbench data export pope --out DIR"]),
        (["check", "pope", "--data-dir", "none"], ["none does not exist", "--data-dir DIR"]),
        (["export", "pope", "--out", "out"], ["lmms-lab/POPE", "--data-dir"]),
        (["export", "scenes_pope", "--out", "out"], ["travel with sinkbench"]),
        (["check", "pope", "--set", "pope.parsr=vcd"], ["unknown parameter 'pope.parsr'", "pope.parser"]),
    ],
)
def test_usage_errors(sinkbench, tmp_path, arguments, words):
    done = sinkbench("data", *arguments, env={"HF_HOME": str(tmp_path)})
    assert done.returncode == 2
    message = " ".join(done.stderr.replace("│", " ").split())
    for word in words:
        assert word in message
