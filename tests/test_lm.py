import subprocess
import sys

import pytest

pytest.importorskip("lm_eval")

from fakes import FakeEngine
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from PIL import Image
from scenes_folder import write_scenes

from sinkbench.errors import IncompleteError, UsageError
from sinkbench.lm import SinkbenchLM
from sinkbench.request import Generation


def instance(context="<image>Is there a dog?", settings=None, visuals=(), doc=None, index=0):
    arguments = (context, settings or {"until": [], "max_gen_toks": 5}, {"visual": list(visuals)})
    return Instance("generate_until", doc or {}, arguments, 0, ("scenes_pope", index, 1))


class Recording(FakeEngine):
    """Keeps the requests; answers the last batch first."""

    def answer(self, requests):
        self.requests = list(requests)
        yield from reversed(list(super().answer(self.requests)))


def echo(request):
    return request.messages[-1].text.removeprefix("<image>")


@pytest.fixture
def engine():
    return Recording.of(echo)


@pytest.fixture
def lm(engine):
    return SinkbenchLM(engine=engine)


class Hook(CacheHook):
    def __init__(self):
        self.kept = {}

    def add_partial(self, attr, req, res):
        self.kept[attr, req[0]] = res


def test_answers_come_in_the_order_of_the_requests(lm):
    questions = [f"<image>question {i}" for i in range(5)]
    texts = lm.generate_until([instance(q, visuals=[Image.new("RGB", (4, 4))]) for q in questions], disable_tqdm=True)
    assert texts == [f"question {i}" for i in range(5)]


def test_every_answer_goes_to_lm_evals_cache_as_it_comes(lm):
    hook = Hook()
    lm.set_cache_hook(hook)
    lm.generate_until([instance("<image>a"), instance("<image>b")], disable_tqdm=True)
    assert hook.kept == {("generate_until", "<image>a"): "a", ("generate_until", "<image>b"): "b"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"until": "\n", "max_gen_toks": 7}, Generation(7, ("\n",))),
        ({"until": ["a", "b"]}, Generation(256, ("a", "b"))),
        ({"do_sample": True, "temperature": 0.7, "top_p": 0.9}, Generation(256, (), True, 0.7, 0.9)),
        ({"do_sample": False, "temperature": 0.0}, Generation(256)),
        ({"do_sample": True, "temperature": 0.0}, Generation(256)),
    ],
)
def test_generation_settings_are_translated(lm, engine, settings, expected):
    lm.generate_until([instance(settings=settings)], disable_tqdm=True)
    assert engine.requests[0].generation == expected


def test_a_generation_setting_that_would_be_ignored_is_refused(lm):
    with pytest.raises(UsageError, match="num_beams"):
        lm.generate_until([instance(settings={"num_beams": 5})], disable_tqdm=True)


def test_images_in_memory_become_files_named_by_content(lm, engine):
    red, same, blue = (Image.new("RGB", (6, 4), colour) for colour in ("red", "red", "blue"))
    lm.generate_until([instance(visuals=[red, blue]), instance(visuals=[same])], disable_tqdm=True)
    (first, second), (third,) = (request.images for request in engine.requests)
    assert first == third
    assert first.path != second.path
    assert first.load().getpixel((0, 0)) == (255, 0, 0)
    assert second.load().size == (6, 4)


def test_images_on_disk_are_used_where_they_lie(lm, engine, tmp_path):
    path = write_scenes(tmp_path / "scenes", 1) / "images" / "000001.jpg"
    with Image.open(path) as image:
        lm.generate_until([instance(visuals=[image], doc={"image_path": str(path)})], disable_tqdm=True)
    assert engine.requests[0].images[0].path == str(path)


def test_a_failed_sample_is_no_empty_answer():
    def broken(request):
        return ValueError("image is broken") if request.id == "1" else "yes"

    lm, hook = SinkbenchLM(engine=FakeEngine.of(broken)), Hook()
    lm.set_cache_hook(hook)
    with pytest.raises(IncompleteError, match="1 of 3 samples failed; for example scenes_pope/1: image is broken"):
        lm.generate_until([instance(f"<image>{i}", index=i) for i in range(3)], disable_tqdm=True)
    assert set(hook.kept) == {("generate_until", "<image>0"), ("generate_until", "<image>2")}


def test_an_image_that_cannot_be_decoded_fails_with_its_sample_only(lm, engine):
    class Truncated:
        def convert(self, mode):
            raise OSError("image file is truncated")

    lm.generate_until(
        [instance(visuals=[Truncated()]), instance(visuals=[Image.new("RGB", (4, 4))])], disable_tqdm=True
    )
    bad, good = (request.images[0] for request in engine.requests)
    assert bad.sha256 == ""
    assert good.load().size == (4, 4)


def test_likelihoods_and_foreign_templates_are_refused(lm):
    for call in (lm.loglikelihood, lm.loglikelihood_rolling):
        with pytest.raises(UsageError, match="generate_until"):
            call([])
    with pytest.raises(UsageError, match="template"):
        lm.apply_chat_template([{"role": "user", "content": "hello"}])


def test_lm_eval_finds_it_by_name():
    from lm_eval.api.registry import get_model

    assert get_model("sinkbench") is SinkbenchLM
    assert SinkbenchLM.MULTIMODAL


def test_sharing_can_be_turned_off_as_a_model_argument():
    assert SinkbenchLM.create_from_arg_string("model=tiny-llava")._engine.share_prefix
    assert not SinkbenchLM.create_from_arg_string("model=tiny-llava,share_prefix=false")._engine.share_prefix


def test_lm_evals_own_models_stay_known():
    code = (
        "import sinkbench.lm; from lm_eval.api.registry import model_registry; assert 'hf-multimodal' in model_registry"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_several_images_on_disk_are_used_where_they_lie(lm, engine, tmp_path):
    folder = write_scenes(tmp_path / "scenes", 2) / "images"
    paths = [str(folder / f"00000{number}.jpg") for number in (2, 1)]
    with Image.open(paths[0]) as first, Image.open(paths[1]) as second:
        visuals = [first, second]
        lm.generate_until([instance("<image><image>?", visuals=visuals, doc={"image_paths": paths})], disable_tqdm=True)
    assert [image.path for image in engine.requests[0].images] == paths


def test_hf_multimodal_and_sinkbench_answer_alike():
    """The same YAML under lm-eval's own model and under ours, greedy, on the shipped model and data."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from sinkbench.paths import asset, resource

    tasks = ["scenes_pope", "scenes_mcq"]

    def evaluated(model, arguments, **settings):
        manager = TaskManager(include_path=str(resource("tasks")), include_defaults=False)
        arguments |= {"dtype": "float32", "device": "cpu"}
        settings |= {"tasks": tasks, "task_manager": manager, "limit": 4, "batch_size": 2, "bootstrap_iters": 0}
        done = simple_evaluate(model=model, model_args=arguments, **settings)
        answers = {(task, row["doc_id"]): row["resps"] for task in tasks for row in done["samples"][task]}
        return answers, done["results"]

    ours, our_scores = evaluated("sinkbench", {"model": "tiny-llava"})
    hf = {"pretrained": str(asset("tiny-llava"))}
    theirs, their_scores = evaluated("hf-multimodal", hf, apply_chat_template=True)
    assert len(ours) == 8
    assert ours == theirs
    for task in tasks:
        assert str(our_scores[task]) == str(their_scores[task])


def test_lm_eval_and_the_runner_agree(tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from sinkbench.backend import LmEvalTask
    from sinkbench.paths import resource

    folder = write_scenes(tmp_path / "scenes", 4)

    def answer(request):
        return "yes" if "dog" in request.messages[-1].text else "no"

    manager = TaskManager(
        include_path=str(resource("tasks")), include_defaults=False, metadata={"data_dir": str(folder)}
    )
    engine = Recording.of(answer)
    results = simple_evaluate(
        model=SinkbenchLM(engine=engine), tasks=["scenes_pope"], task_manager=manager, bootstrap_iters=0
    )["results"]["scenes_pope"]

    task = LmEvalTask("scenes_pope", folder, {})
    requests = list(task.requests(tmp_path, None))
    metrics, _ = task.score({request.id: answer(request) for request in requests})
    assert {name: results[f"{name},none"] for name in metrics} == {name: m["value"] for name, m in metrics.items()}
    assert [r.messages for r in engine.requests] == [r.messages for r in requests]
    assert [r.generation for r in engine.requests] == [r.generation for r in requests]
    assert [r.images[0].sha256 for r in engine.requests] == [r.images[0].sha256 for r in requests]
