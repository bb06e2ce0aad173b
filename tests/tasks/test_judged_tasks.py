"""MM-Vet, MMHal-Bench and LLaVA-Bench: data, prompts, answers in the official forms, and scores of a judge."""

import json

import pytest
from endpoint import serving
from fakes import FakeEngine, lines
from hub_data import embedded, jpeg, write_parquet
from typer.testing import CliRunner

from sinkbench import judge, runner
from sinkbench.backend import LocalBackend
from sinkbench.cli.app import app
from sinkbench.errors import IncompleteError, UsageError
from sinkbench.spec import RunSpec
from sinkbench.tasks import build_requests, check_data, documents, hub, load_task, score_samples, task_info
from sinkbench.tasks.load import task_fingerprint

TASKS = ("mmvet", "mmhal", "llava_bench")


def mmvet_rows():
    capabilities = ["rec", "ocr,math", "rec,know"]
    return [
        {
            "question_id": f"v1_{index}",
            "question": f"What is number {index}?",
            "answer": f"{index}<OR>nothing",
            "image_source": "web",
            "capability": capabilities[index],
        }
        for index in range(3)
    ]


def mmhal_rows():
    return [
        {
            "question_type": kind,
            "question_topic": "food",
            "image_id": f"img{index}",
            "image_src": f"https://example.org/8/{index}_o.jpg",
            "image_content": ["Dog", "Table"],
            "question": f"What about {index}?",
            "gt_answer": "Nothing.",
        }
        for index, kind in enumerate(("attribute", "counting", "other"))
    ]


def llava_rows():
    return [
        {
            "question_id": index,
            "question": f"Where is {index}?",
            "category": category,
            "image_id": f"{index // 2:03}.jpg",
            "caption": f"A hill number {index // 2}.",
            "gpt_answer": f"On hill {index}.",
        }
        for index, category in enumerate(("conv", "detail", "complex"))
    ]


ROWS = {"mmvet": mmvet_rows, "mmhal": mmhal_rows, "llava_bench": llava_rows}
FILES = {"mmvet": "data/test-0.parquet", "mmhal": "data/test-0.parquet", "llava_bench": "data/train-0.parquet"}
RIGHT = {"mmvet": "1.0", "mmhal": "Fine.\nRating: 6", "llava_bench": "8 8\nsame"}
HEADLINE = {"mmvet": 1.0, "mmhal": 6.0, "llava_bench": 1.0}


def write_hub(folder, task, changes=()):
    from datasets import Image, List, Value

    rows = [{**row, "image": embedded(jpeg(index))} for index, row in enumerate(ROWS[task]())]
    for index, change in changes:
        rows[index] |= change
    kinds = {"image": Image(), "image_content": List(Value("string"))}
    kinds |= {"question_id": Value("int64")} if task == "llava_bench" else {}
    return write_parquet(folder, FILES[task], rows, {name: kinds.get(name, Value("string")) for name in rows[0]})


def write_images(folder, names):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(dict.fromkeys(names)):
        (folder / "images" / name).write_bytes(jpeg(index))


def write_release(folder, task):
    folder.mkdir(exist_ok=True)
    rows = ROWS[task]()
    if task == "mmvet":
        write_images(folder, [f"{row['question_id']}.png" for row in rows])
        entries = {
            row["question_id"]: {
                "imagename": f"{row['question_id']}.png",
                "question": row["question"],
                "answer": row["answer"],
                "imagesource": "web",
                "capability": row["capability"].split(","),
            }
            for row in rows
        }
        (folder / "mm-vet.json").write_text(json.dumps(entries))
    elif task == "mmhal":
        write_images(folder, [f"{index}_o.jpg" for index in range(3)])
        (folder / "response_template.json").write_text(json.dumps([{**row, "model_answer": ""} for row in rows]))
    else:
        write_images(folder, [row["image_id"] for row in rows])
        parts = {
            "questions.jsonl": [
                {
                    "question_id": row["question_id"],
                    "image": row["image_id"],
                    "text": row["question"],
                    "category": row["category"],
                }
                for row in rows
            ],
            "context.jsonl": [{"image": row["image_id"], "caption": row["caption"]} for row in rows],
            "answers_gpt4.jsonl": [{"question_id": row["question_id"], "text": row["gpt_answer"]} for row in rows],
        }
        for name, entries in parts.items():
            (folder / name).write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


def asked(task, folder, tmp_path, **params):
    return [request.messages[0].text for request in build_requests(load_task(task, folder, params), tmp_path / "i")]


@pytest.mark.parametrize("task", TASKS)
def test_hub_and_release_are_the_same_questions(task, tmp_path, monkeypatch):
    info = task_info(task)
    cache = tmp_path / "cache" / f"datasets--{info.hub.replace('/', '--')}" / "snapshots" / "abc"
    write_hub(cache, task)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "reachable", lambda _: pytest.fail("the hub was asked"))
    release = write_release(tmp_path / "release", task)
    check_data(task)
    check_data(task, release)
    check_data(task, write_hub(tmp_path / "files", task).parents[1])
    columns = [name for name in ROWS[task]()[0] if name != "image_id"]
    found = [
        [{key: row[key] for key in ("id", "fault", *columns)} for row in documents(load_task(task, folder))]
        for folder in (None, release, tmp_path / "files")
    ]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 3
    assert asked(task, None, tmp_path) == asked(task, release, tmp_path)
    for request in build_requests(load_task(task, release), tmp_path / "i"):
        assert request.images[0].load().size == (32, 24)


def test_prompts_letter_by_letter(tmp_path):
    folder = {task: write_release(tmp_path / task, task) for task in TASKS}
    assert asked("mmvet", folder["mmvet"], tmp_path)[0] == "<image>What is number 0?"
    assert asked("mmvet", folder["mmvet"], tmp_path, prompt="lmms-eval")[0] == (
        "<image>First please perform reasoning, and think step by step to provide best answer to the following "
        "question: \n\nWhat is number 0?"
    )
    assert asked("mmhal", folder["mmhal"], tmp_path)[0] == "<image>What about 0?"
    assert asked("llava_bench", folder["llava_bench"], tmp_path)[0] == "<image>Where is 0?"
    for task in TASKS:
        assert task_info(task).generation == {"max_gen_toks": 1024, "do_sample": False, "until": []}


@pytest.mark.parametrize("task", TASKS)
def test_who_judges_does_not_change_what_is_asked(task, tmp_path):
    folder = write_release(tmp_path / "data", task)
    params = {"judge": "http://localhost:1/v1", "judge_model": "m"}
    plain, judged = load_task(task, folder), load_task(task, folder, params)
    assert task_fingerprint(plain) == task_fingerprint(judged)
    assert not any(column.startswith("judge") for column in documents(judged).features)


@pytest.mark.parametrize("task", TASKS)
def test_lm_eval_alone_gives_no_score(task, tmp_path):
    loaded = load_task(task, write_release(tmp_path / "data", task))
    answers = {f"{task}/{row['id']}": "an answer" for row in documents(loaded)}
    metrics, _ = score_samples(loaded, answers)
    assert {metric["value"] for name, metric in metrics.items() if name != "n_unparsed"} == {None}


@pytest.mark.parametrize("task", TASKS)
def test_judged_answers_and_their_order(task, tmp_path):
    loaded = load_task(task, write_release(tmp_path / "data", task))
    answers = {f"{task}/{row['id']}": "an answer" for row in documents(loaded)}
    replies = dict(zip(answers, [RIGHT[task], RIGHT[task], "hm"], strict=True))
    metrics, _ = score_samples(loaded, answers, replies=replies)
    assert next(iter(metrics.values()))["value"] == HEADLINE[task]
    assert next(iter(metrics.values()))["n"] == 2
    turned = dict(reversed(answers.items()))
    assert score_samples(loaded, turned, replies=replies)[0] == metrics


@pytest.mark.parametrize("task", TASKS)
def test_a_null_is_the_rows_fault(task, tmp_path):
    target = {"mmvet": "answer", "mmhal": "gt_answer", "llava_bench": "gpt_answer"}[task]
    folder = write_hub(tmp_path / "data", task, [(1, {target: None}), (2, {"image": None})]).parents[1]
    assert [row["fault"] for row in documents(load_task(task, folder))] == [
        "",
        f"{target} is null",
        "image is null",
    ]


@pytest.mark.parametrize(
    ("task", "break_it", "words"),
    [
        ("mmvet", lambda folder: (folder / "mm-vet.json").write_text('{"v1_0": {"question": "?"}}'), "imagename"),
        ("mmvet", lambda folder: (folder / "mm-vet.json").write_text('{"v1_0": 3}'), "an object for each"),
        ("mmhal", lambda folder: (folder / "response_template.json").write_text('[{"question": "?"}]'), "image_src"),
        ("llava_bench", lambda folder: (folder / "context.jsonl").unlink(), "context.jsonl does not exist"),
        ("llava_bench", lambda folder: (folder / "context.jsonl").write_text('{"image": "a"}'), "caption missing"),
    ],
)
def test_broken_releases(task, break_it, words, tmp_path):
    folder = write_release(tmp_path / "data", task)
    break_it(folder)
    with pytest.raises(UsageError, match=words) as caught:
        check_data(task, folder)
    assert "--data-dir" in caught.value.hint


def test_a_question_without_reference_is_its_own_fault(tmp_path):
    folder = write_release(tmp_path / "data", "llava_bench")
    text = (folder / "answers_gpt4.jsonl").read_text().splitlines()
    (folder / "answers_gpt4.jsonl").write_text("\n".join(text[1:]))
    assert [row["fault"] for row in documents(load_task("llava_bench", folder))] == ["gpt_answer is null", "", ""]


def test_a_wrong_judge_is_found_before_anything_is_asked(tmp_path):
    folder = write_release(tmp_path / "data", "mmvet")
    with pytest.raises(UsageError, match="has no model"):
        check_data("mmvet", folder, {"judge": "http://localhost:1/v1"})


# Runs


class Backend(LocalBackend):
    """The real tasks; every question is answered "answer to ID", and those in `broken` fail."""

    def __init__(self, broken=()):
        self.broken, self.asked = broken, []

    def adapter(self, preset, device, dtype):
        return type("Adapter", (), {"dtype": "float32", "device": "cpu"})()

    def engine(self, adapter, methods, *settings):
        def answer(request):
            self.asked.append(request.id)
            return ValueError("broken") if request.id in self.broken else f"answer to {request.id}"

        return FakeEngine(dict.fromkeys(methods, answer), dict.fromkeys(methods, "greedy"))


@pytest.fixture
def data(tmp_path):
    return {task: write_release(tmp_path / task, task) for task in TASKS}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(judge, "PAUSE_S", 0.0)


def run(tmp_path, data, task, backend=None, stage="all", **params):
    named = {f"{task}.{key}": value for key, value in params.items()}
    spec = RunSpec(
        model="tiny-llava", task=task, params=named, data_dir=data[task], output=tmp_path / "runs", stage=stage
    )
    (outcome,) = runner.run([spec], backend=backend or Backend())
    return outcome


def submitted(outcome):
    (file,) = (path for path in outcome.directory.iterdir() if path.name in ("mm-vet.json", "response_template.json"))
    return json.loads(file.read_text())


def test_without_a_judge_there_are_answers_and_no_score(tmp_path, data):
    outcome = run(tmp_path, data, "mmvet")
    assert (outcome.record["status"], outcome.record["metrics"]) == ("success", {})
    assert "judge" not in outcome.record["task"]
    assert submitted(outcome) == {f"v1_{index}": f"answer to mmvet/v1_{index}" for index in range(3)}
    assert {row["score"] for row in lines(outcome.directory)} == {None}
    assert run(tmp_path, data, "mmvet").reused


@pytest.mark.parametrize("task", TASKS)
def test_a_judge_scores_what_was_answered_before(task, tmp_path, data):
    first = run(tmp_path, data, task)
    backend = Backend()
    with serving(lambda prompt: RIGHT[task]) as endpoint:
        outcome = run(tmp_path, data, task, backend, judge=endpoint.url, judge_model="m")
        assert backend.asked == []
        assert outcome.directory == first.directory
        assert len(endpoint.bodies) == 3
        again = run(tmp_path, data, task, backend, judge=endpoint.url, judge_model="m")
        assert again.reused
        assert len(endpoint.bodies) == 3
    record = outcome.record
    assert record["status"] == "success"
    assert next(iter(record["metrics"].values()))["value"] == HEADLINE[task]
    seen = record["task"]["judge"]
    assert (seen["url"], seen["model"], seen["n_unjudged"]) == (endpoint.url, "m", 0)
    assert len(seen["prompt_sha256"]) == 64
    assert {row["judge"]["reply"] for row in lines(outcome.directory)} == {RIGHT[task]}
    for row, prompt in zip(lines(outcome.directory), endpoint.prompts, strict=True):
        assert row["text"] in prompt


def test_another_judge_judges_anew(tmp_path, data):
    with serving(lambda prompt: "1.0") as endpoint:
        run(tmp_path, data, "mmvet", judge=endpoint.url, judge_model="m")
        other = run(tmp_path, data, "mmvet", judge=endpoint.url, judge_model="n")
        assert [body["model"] for body in endpoint.bodies] == ["m"] * 3 + ["n"] * 3
    assert other.record["task"]["judge"]["model"] == "n"
    without = run(tmp_path, data, "mmvet")
    assert without.record["metrics"] == {}
    assert "judge" not in without.record["task"]


@pytest.mark.parametrize("bad", [500, b"garbage", 1.5, "I cannot say."], ids=["500", "garbage", "timeout", "words"])
def test_what_the_judge_fails_on_has_no_score_and_is_asked_again(bad, tmp_path, data):
    settings = {"judge_model": "m", "judge_timeout": 1}
    with serving(lambda prompt: bad if "number 1" in prompt else "0.5") as endpoint:
        outcome = run(tmp_path, data, "mmvet", judge=endpoint.url, **settings)
        first = len(endpoint.bodies)
        assert outcome.record["status"] == "incomplete"
        assert outcome.n_unjudged == 1
        assert outcome.first_unjudged().startswith("mmvet/v1_1: ")
        metrics = outcome.record["metrics"]
        assert (metrics["score"]["value"], metrics["score"]["n"]) == (0.5, 2)
        rows = {row["id"]: row for row in lines(outcome.directory)}
        assert [rows[f"mmvet/v1_{index}"]["score"] for index in range(3)] == [0.5, None, 0.5]
        assert rows["mmvet/v1_1"]["judge"]["error"]
        assert len(submitted(outcome)) == 3
        run(tmp_path, data, "mmvet", judge=endpoint.url, **settings)
        assert all("number 1" in prompt for prompt in endpoint.prompts[first:])
        assert len(endpoint.prompts) > first


def test_a_judge_that_is_down_is_not_asked_for_ever(tmp_path, data):
    rows = json.loads((data["mmvet"] / "mm-vet.json").read_text())
    many = {f"v1_{index}": rows["v1_0"] for index in range(9)}
    (data["mmvet"] / "mm-vet.json").write_text(json.dumps(many))
    with serving(lambda prompt: 503) as endpoint:
        outcome = run(tmp_path, data, "mmvet", judge=endpoint.url, judge_model="m")
    assert len(endpoint.bodies) == 5 * judge.ATTEMPTS
    assert outcome.n_unjudged == 9
    assert outcome.record["metrics"]["score"]["value"] is None


def test_verdicts_survive_a_refusal(tmp_path, data):
    replies = iter(["1.0", 401, "1.0", "1.0"])
    with serving(lambda prompt: next(replies)) as endpoint:
        with pytest.raises(UsageError, match="401"):
            run(tmp_path, data, "mmvet", judge=endpoint.url, judge_model="m")
        (file,) = (tmp_path / "runs").glob("*/run.json")
        assert json.loads(file.read_text())["status"] == "error"
        outcome = run(tmp_path, data, "mmvet", judge=endpoint.url, judge_model="m")
    assert len(endpoint.bodies) == 4
    assert outcome.record["metrics"]["score"]["value"] == 1.0


def test_failed_samples_are_neither_judged_nor_handed_in(tmp_path, data):
    with serving(lambda prompt: "Rating: 6") as endpoint:
        outcome = run(tmp_path, data, "mmhal", Backend(broken={"mmhal/img1"}), judge=endpoint.url, judge_model="m")
    assert len(endpoint.bodies) == 2
    assert outcome.record["status"] == "incomplete"
    assert [row["image_id"] for row in submitted(outcome)] == ["img0", "img2"]
    assert outcome.record["metrics"]["score"]["n"] == 2


def test_the_command_line_says_how_to_get_a_score(tmp_path, data):
    arguments = ["eval", "-m", "tiny-llava", "-t", "mmvet", "--data-dir", str(data["mmvet"]), "--device", "cpu"]
    arguments += ["--max-new-tokens", "4", "-o", str(tmp_path / "runs")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "no score: nobody judged the answers" in done.stdout
    assert "--set mmvet.judge=URL --set mmvet.judge_model=NAME" in done.stdout
    assert "mm-vet.json" in done.stderr
    with serving(lambda prompt: "hm" if "number 2" in prompt else "1.0") as endpoint:
        arguments += ["--set", f"mmvet.judge={endpoint.url}", "--set", "mmvet.judge_model=m"]
        done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, IncompleteError)
    assert "1 answers have no verdict and no score; for example mmvet/v1_2: the judge's reply" in done.exception.message
    assert "2 judged by m" in done.stdout


def test_stages_apart(tmp_path, data):
    for stage in ("prepare", "answer", "score"):
        outcome = run(tmp_path, data, "mmvet", stage=stage)
    assert outcome.record["metrics"] == {}
    with serving(lambda prompt: "0.5") as endpoint:
        outcome = run(tmp_path, data, "mmvet", stage="score", judge=endpoint.url, judge_model="m")
    assert outcome.record["metrics"]["score"]["value"] == 0.5
