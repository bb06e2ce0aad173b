import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from weakref import WeakSet

import pytest

from sinkbench.errors import SinkbenchError, UsageError
from sinkbench.record import sample_row
from sinkbench.request import ImageRef, Message, Request, Response
from sinkbench.store import RunStore, check_writable


def request(id="t/0", path="a.png"):
    return Request(id, (Message("user", "<image>Is there a dog?"),), (ImageRef(path, "0" * 64),))


def row(id="t/0", text="yes", error=""):
    return sample_row("t", request(id), Response(id, text, finish="error" if error else "stop", error=error))


@pytest.fixture
def store(tmp_path):
    store = RunStore(tmp_path / "run")
    with store.locked():
        yield store


def test_the_newest_line_of_a_sample_counts(store):
    store.append([row("t/0", "yes"), row("t/1", "no")])
    store.append([row("t/0", "no")])
    assert {id: sample["text"] for id, sample in store.samples().items()} == {"t/0": "no", "t/1": "no"}


def test_a_line_cut_off_by_a_kill_is_dropped_and_writing_goes_on(store):
    store.append([row("t/0"), row("t/1")])
    content = store.samples_file.read_bytes()
    store.samples_file.write_bytes(content[:-20])
    assert list(store.samples()) == ["t/0"]
    store.append([row("t/2")])
    assert list(store.samples()) == ["t/0", "t/2"]


def test_a_long_line_that_was_cut_off_is_dropped(store):
    store.append([row("t/0"), row("t/1", "x" * 200_000)])
    store.samples_file.write_bytes(store.samples_file.read_bytes()[:-10])
    assert list(store.samples()) == ["t/0"]
    assert store.samples_file.read_bytes().endswith(b"}\n")


def test_a_file_of_nothing_but_a_cut_off_line_is_empty(store):
    store.samples_file.write_text('{"id": "t/0", "tex')
    assert store.samples() == {}
    assert store.samples_file.read_bytes() == b""


def test_lines_come_newest_and_in_the_order_of_the_requests(store):
    store.write_requests([request("t/0"), request("t/1"), request("t/2")])
    assert list(store.newest()) == []
    store.append([row("t/2", "ja, schön"), row("t/0", "no"), row("t/9", "stray")])
    store.append([row("t/2", "yes")])
    assert [(line["id"], line["text"]) for line in store.newest()] == [("t/0", "no"), ("t/2", "yes")]


def test_failures_are_those_of_the_newest_lines(store):
    store.append([row("t/0", error="broken"), row("t/1", error="too long"), row("t/2")])
    store.append([row("t/0"), row("t/2", error="lost")])
    assert store.failures() == {"t/1": "too long", "t/2": "lost"}


def test_damage_in_the_middle_is_an_error_that_names_the_line(store):
    store.append([row("t/0"), row("t/1"), row("t/2")])
    lines = store.samples_file.read_text().splitlines()
    store.samples_file.write_text("\n".join([lines[0], lines[1][:10], lines[2]]) + "\n")
    with pytest.raises(UsageError, match="line 2 is damaged"):
        store.samples()


def test_text_survives_as_it_is(store):
    text = 'eine "Straße"\u2028\n\ttab 漢字'
    store.append([row("t/0", text)])
    assert store.samples()["t/0"]["text"] == text


def test_a_rewrite_is_checked_against_the_schema(store):
    store.append([row()])
    with pytest.raises(ValueError, match=r"sample\.schema\.json"):
        store.replace_samples([{**row(), "text": None}])
    assert store.samples()["t/0"]["text"] == "yes"


def test_requests_that_cannot_be_made_leave_the_old_ones(store):
    def broken():
        yield request("t/1")
        raise OSError("image is gone")

    store.write_requests([request("t/0")])
    with pytest.raises(OSError, match="image is gone"):
        store.write_requests(broken())
    assert [request.id for request in store.requests()] == ["t/0"]
    assert [file.name for file in store.directory.iterdir() if file.suffix == ".tmp"] == []


def test_requests_are_written_as_they_are_made(store):
    made, alive = 5000, WeakSet()

    def several():
        for i in range(made):
            one = request(f"t/{i}")
            alive.add(one)
            yield one
            assert len(alive) < 3

    store.write_requests(several())
    assert sum(1 for _ in store.requests()) == made


def test_an_invalid_record_leaves_the_old_one(store):
    store.run_file.write_text("old")
    with pytest.raises(ValueError, match=r"run\.schema\.json"):
        store.write_run({"schema_version": 1})
    assert store.run_file.read_text() == "old"
    assert [file.name for file in store.directory.iterdir() if file.suffix == ".tmp"] == []


def test_a_damaged_record_is_explained(store):
    store.run_file.write_text('{"status": ')
    with pytest.raises(UsageError, match=r"run\.json is damaged"):
        store.read_run()


def test_relative_images_start_from_the_run_directory(store):
    store.write_requests([request(path="../images/a.png"), request("t/1", "/data/b.png")])
    paths = [r.images[0].path for r in store.requests()]
    assert paths == [str(store.directory.parent / "images" / "a.png"), "/data/b.png"]


def test_requests_that_were_never_prepared_are_missed(store):
    with pytest.raises(UsageError, match=r"requests\.jsonl"):
        list(store.requests())


def test_two_processes_cannot_write_one_run(store):
    with pytest.raises(UsageError, match="another process"), RunStore(store.directory).locked():
        pass


def test_a_killed_process_leaves_no_lock(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time, pathlib, sinkbench.store as s\n"
            "with s.RunStore(pathlib.Path(sys.argv[1])).locked(): print('held', flush=True); time.sleep(60)",
            str(tmp_path / "run"),
        ],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(UsageError), RunStore(tmp_path / "run").locked():
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with RunStore(tmp_path / "run").locked():
        pass


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written") as caught:
        check_writable(tmp_path / "file" / "runs")
    assert "--output" in caught.value.hint


def test_checking_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "runs")
    assert os.listdir(tmp_path / "runs") == []


def test_a_failing_disk_is_explained(store):
    store.samples_file.mkdir()
    with pytest.raises(SinkbenchError, match=r"samples\.jsonl cannot be written") as caught:
        store.append([row()])
    assert "kept" in caught.value.hint


def test_every_line_is_one_json_object(store):
    store.append([row("t/0", "two\nlines"), row("t/1", error="broken")])
    lines = store.samples_file.read_text().split("\n")
    assert lines.pop() == ""
    assert [json.loads(line)["id"] for line in lines] == ["t/0", "t/1"]


def test_runs_of_one_folder_read_alike_but_for_images_of_their_own(tmp_path):
    images = ("../images/a.png", "b.png", "/c.png")
    request = Request("q", (Message("user", "<image>" * 3),), tuple(ImageRef(path) for path in images))
    found = []
    for folder in (tmp_path / "one" / "run", tmp_path / "one" / "other", tmp_path / "two" / "run"):
        folder.mkdir(parents=True)
        store = RunStore(folder)
        store.write_requests([request, replace(request, images=request.images[::2])])
        found.append([[image.path for image in read.images] for read in store.requests()])
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert found == [
        [[f"{one}/images/a.png", f"{one}/run/b.png", "/c.png"], [f"{one}/images/a.png", "/c.png"]],
        [[f"{one}/images/a.png", f"{one}/other/b.png", "/c.png"], [f"{one}/images/a.png", "/c.png"]],
        [[f"{two}/images/a.png", f"{two}/run/b.png", "/c.png"], [f"{two}/images/a.png", "/c.png"]],
    ]
