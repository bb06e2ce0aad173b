"""The data of the check of VQAv2's size are VQAv2's, in both forms, and ask the same."""

from check_scale import QUESTIONS_AN_IMAGE, _write_hub, _write_release

from sinkbench.tasks import build_requests, check_data, load_task, task_fingerprint


def test_both_forms_are_the_same_questions(tmp_path):
    marks = set()
    for name, write in (("hub", _write_hub), ("release", _write_release)):
        write(tmp_path / name, 23, 3000)
        check_data("vqav2", tmp_path / name)
        task = load_task("vqav2", tmp_path / name)
        requests = list(build_requests(task, tmp_path / "images"))
        assert len(requests) == 23
        assert len({request.images[0].key for request in requests}) == -(-23 // QUESTIONS_AN_IMAGE)
        assert requests[0].images[0].load().size == (64, 48)
        marks.add((task_fingerprint(task), *(request.images[0].sha256 for request in requests)))
    assert len(marks) == 1
