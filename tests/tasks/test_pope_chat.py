"""PAI's dialogues: six questions about one image, with the model's own answers between them."""

import json
import shutil

import pytest
from hub_data import jpeg
from shared_data import shared

from sinkbench import runner
from sinkbench.errors import UsageError
from sinkbench.spec import RunSpec
from sinkbench.tasks import build_requests, check_data, documents, load_task, score_samples, task_fingerprint
from sinkbench.tasks.layout import FAULT

SPLITS = ("random", "popular", "adversarial")
SHORT = "\nAnswer the question using a single word or phrase."


def dialogues(n=1, turns=3, **changes):
    return [
        {
            "text": [f"Is there a dog number {turn} in the image?" for turn in range(turns)],
            "label": ["yes" if turn % 2 == 0 else "no" for turn in range(turns)],
            "chat_id": chat,
            "image": f"COCO_val2014_{chat:012}.jpg",
            **changes,
        }
        for chat in range(n)
    ]


def write(folder, entries, splits=SPLITS, n_images=2):
    (folder / "val2014").mkdir(parents=True)
    for split in splits:
        lines = "".join(json.dumps(row) + "\n" for row in entries)
        (folder / f"coco_pope_chat_{split}.json").write_text(lines)
    for image in range(n_images):
        (folder / "val2014" / f"COCO_val2014_{image:012}.jpg").write_bytes(jpeg(image))


@pytest.mark.parametrize(("prompt", "suffix"), [("original", ""), ("llava", SHORT)])
def test_turns_go_on_with_their_dialogue(prompt, suffix, tmp_path):
    write(tmp_path, dialogues(n=2), splits=("random",))
    check_data("pope_chat", tmp_path)
    requests = list(build_requests(load_task("pope_chat", tmp_path, {"prompt": prompt}), tmp_path / "out"))
    assert [request.id for request in requests] == [f"pope_chat/random-{c}-{t}" for c in range(2) for t in range(3)]
    assert [request.history for request in requests[3:]] == [
        (),
        ("pope_chat/random-1-0",),
        ("pope_chat/random-1-0", "pope_chat/random-1-1"),
    ]
    asked = [f"Is there a dog number {turn} in the image?{suffix}" for turn in range(3)]
    assert [(message.role, message.text) for message in requests[5].messages] == [
        ("user", f"<image>{asked[0]}"),
        ("assistant", ""),
        ("user", asked[1]),
        ("assistant", ""),
        ("user", asked[2]),
    ]
    assert len({request.images for request in requests[3:]}) == 1
    assert requests[0].generation.max_new_tokens == 512


def test_all_turns_are_pooled_by_split(tmp_path):
    write(tmp_path, dialogues(n=2, turns=6))
    task = load_task("pope_chat", tmp_path)
    metrics, _ = score_samples(task, {f"pope_chat/{doc['id']}": doc["answer"] for doc in documents(task)})
    assert metrics["f1"]["value"] == 1.0
    assert [metrics[f"{split}/f1"]["n"] for split in SPLITS] == [12, 12, 12]
    metrics, _ = score_samples(task, {f"pope_chat/{doc['id']}": "There isn't one." for doc in documents(task)})
    assert (metrics["accuracy"]["value"], metrics["yes_ratio"]["value"]) == (0.5, 0)


@pytest.mark.parametrize("place", ["coco_chat", "coco", "."])
def test_where_the_files_may_lie(place, tmp_path):
    write(tmp_path / place, dialogues())
    assert len(documents(load_task("pope_chat", tmp_path))) == 9


def test_a_dialogue_in_a_run_of_two_methods(tmp_path):
    """The real tiny-llava: each method's later turns hold its own answers; a finished run is reused."""
    write(tmp_path / "data", dialogues(), splits=("random",), n_images=1)
    specs = [
        RunSpec(
            model="tiny-llava",
            method=method,
            task="pope_chat",
            data_dir=tmp_path / "data",
            output=tmp_path / "runs",
            device="cpu",
            generation={"max_new_tokens": 4},
        )
        for method in ("greedy", "vcd")
    ]
    outcomes = runner.run(specs)
    for outcome in outcomes:
        assert (outcome.record["status"], outcome.record["task"]["n_run"]) == ("success", 3)
        rows = [json.loads(line) for line in (outcome.directory / "samples.jsonl").read_text().splitlines()]
        lengths = [row["prompt_tokens"] for row in rows]
        assert lengths == sorted(lengths)
        assert lengths[0] < lengths[1] < lengths[2]
        assert len({row["visual_tokens"] for row in rows}) == 1
    assert all(outcome.reused for outcome in runner.run(specs))


def test_broken_dialogues_are_counted(tmp_path):
    entries = [*dialogues(n=1, label=["yes", None]), *dialogues(n=1, chat_id=1, text=None)]
    write(tmp_path, entries, splits=("random",))
    faults = {doc["id"]: doc[FAULT] for doc in documents(load_task("pope_chat", tmp_path))}
    assert faults == {
        "random-0-0": "",
        "random-0-1": "answer is null",
        "random-0-2": "answer is null",
        "random-1-0": "question is null",
    }


def test_the_fingerprint_knows_the_order_of_turns(tmp_path):
    write(tmp_path / "first", dialogues())
    write(tmp_path / "second", dialogues(text=[f"Is there a dog number {t} in the image?" for t in (1, 0, 2)]))
    first, second = (load_task("pope_chat", tmp_path / name) for name in ("first", "second"))
    assert task_fingerprint(first) == task_fingerprint(load_task("pope_chat", tmp_path / "first"))
    assert task_fingerprint(first) != task_fingerprint(second)


def test_lm_eval_cannot_ask_in_turns(tmp_path):
    from types import SimpleNamespace

    from sinkbench.lm import SinkbenchLM

    write(tmp_path, dialogues(), splits=("random",))
    task = load_task("pope_chat", tmp_path)
    instances = [
        SimpleNamespace(
            args=(task.doc_to_text(doc), {"until": []}, {"visual": task.doc_to_image(doc)}),
            doc=doc,
            doc_id=index,
            task_name="pope_chat",
        )
        for index, doc in enumerate(documents(task))
    ]
    with pytest.raises(UsageError, match="asks in dialogues") as caught:
        SinkbenchLM(engine=object()).generate_until(instances, disable_tqdm=True)
    assert "sinkbench eval -t pope_chat" in caught.value.hint


def test_the_benchmarks_own_files(tmp_path):
    shutil.copytree(shared("pope/coco_chat"), tmp_path / "coco_chat")
    (tmp_path / "COCO_val2014_000000310196.jpg").write_bytes(jpeg(1))
    task = load_task("pope_chat", tmp_path)
    metrics, _ = score_samples(task, {f"pope_chat/{doc['id']}": doc["answer"] for doc in documents(task)})
    assert [metrics[f"{split}/f1"]["n"] for split in SPLITS] == [3000] * 3
    assert metrics["f1"]["value"] == 1.0


def test_a_later_turn_cannot_be_looked_at_by_itself(tmp_path):
    from sinkbench.inspection.sample import Question

    write(tmp_path, dialogues(), splits=("random",))
    first = Question(None, "", "pope_chat", 0, tmp_path).request(tmp_path / "out")
    assert first.id == "pope_chat/random-0-0"
    with pytest.raises(UsageError, match="goes on with a dialogue"):
        Question(None, "", "pope_chat", 1, tmp_path).request(tmp_path / "out")
