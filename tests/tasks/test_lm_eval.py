"""The tasks run under lm-eval itself, with any of its multimodal models."""

import json
import shutil

import pytest

from sinkbench.paths import resource
from sinkbench.tasks import build_requests, documents, load_task, request_id, score_samples

SCENES = ["scenes_chair", "scenes_mcq", "scenes_pope", "scenes_text"]


def run(task, scenes, answer, **metadata):
    """simple_evaluate with a model that answers `answer(prompt, image)`."""
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    class Dummy(LM):
        MULTIMODAL = True

        def generate_until(self, requests, disable_tqdm=False):
            return [answer(request.args[0], request.args[2]["visual"][0]) for request in requests]

        def loglikelihood(self, requests, disable_tqdm=False):
            raise NotImplementedError

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            raise NotImplementedError

    manager = TaskManager(
        include_path=str(resource("tasks")), include_defaults=False, metadata={"data_dir": str(scenes), **metadata}
    )
    return simple_evaluate(model=Dummy(), tasks=[task], task_manager=manager)


@pytest.mark.parametrize("name", SCENES)
def test_simple_evaluate_gives_the_values_of_score_samples(name, scenes):
    replies = {"scenes_chair": "A dog and a train.", "scenes_mcq": "B", "scenes_pope": "yes", "scenes_text": "open"}
    results = run(name, scenes, lambda prompt, image: replies[name])["results"][name]
    task = load_task(name, scenes)
    metrics, _ = score_samples(task, {request_id(task, doc): replies[name] for doc in documents(task)})
    assert {metric: results[f"{metric},none"] for metric in metrics} == {
        metric: result["value"] for metric, result in metrics.items()
    }


def test_prompts_and_images_arrive(scenes):
    seen = []
    run("scenes_mcq", scenes, lambda prompt, image: seen.append((prompt, image.convert("RGB").size)) or "A")
    prompt, size = seen[0]
    assert prompt == (
        "<image>How many dogs are there in the image?\nA. one\nB. two\nC. three\nD. four\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert size == (32, 24)
    assert len(seen) == 32


def test_questions_on_an_image_share_its_pixels_and_no_file_stays_open(scenes):
    images = []
    run("scenes_pope", scenes, lambda prompt, image: images.append(image) or "yes")
    assert len(images) == 144
    assert len({id(image) for image in images}) == 8


def test_parameters_travel_in_metadata(scenes):
    for parser, accuracy in (("pope", 0.5), ("lmms_eval", 0.0)):
        results = run("scenes_pope", scenes, lambda prompt, image: "Yes.", parser=parser)
        assert results["results"]["scenes_pope"]["accuracy,none"] == accuracy


def test_requests_say_what_lm_eval_would_ask(scenes, tmp_path):
    prompts = []
    run("scenes_pope", scenes, lambda prompt, image: prompts.append(prompt) or "yes")
    requests = list(build_requests(load_task("scenes_pope", scenes), tmp_path))
    assert [request.messages[0].text for request in requests] == prompts
    assert requests[0].generation.stop == ()
    assert len({request.id for request in requests}) == len(requests) == 144
    assert [request.id for request in build_requests(load_task("scenes_pope", scenes), tmp_path, limit=5)] == [
        request.id for request in requests[:5]
    ]


def test_absent_options_and_hints_are_rendered_as_llava_does(scenes):
    rows = [json.loads(line) for line in (scenes / "mcq.jsonl").read_text().splitlines()]
    rows[0] |= {"hint": "Count them.", "C": "", "D": ""}
    (scenes / "mcq.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    task = load_task("scenes_mcq", scenes)
    assert task.doc_to_text(documents(task)[0]) == (
        "<image>Count them.\nHow many dogs are there in the image?\nA. one\nB. two\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_tasks_with_different_folders_live_side_by_side(scenes, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(scenes, other)
    (other / "text.jsonl").write_text((other / "text.jsonl").read_text().splitlines()[0] + "\n")
    first, second = load_task("scenes_text", scenes), load_task("scenes_text", other)
    assert (len(documents(first)), len(documents(second))) == (8, 1)
