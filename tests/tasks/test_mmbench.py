"""MMBench: the hub's schema and the tables of VLMEvalKit and LLaVA, prompts, circular scores, one real run."""

import base64
import csv
import importlib.util
import json

import pytest
from choice_data import check_nasty, fake_hub, parquet, prompts, scored
from hub_data import embedded, jpeg

from sinkbench import runner
from sinkbench.errors import UsageError
from sinkbench.paths import resource
from sinkbench.spec import RunSpec
from sinkbench.tasks import (
    build_requests,
    check_data,
    documents,
    load_task,
    task_fingerprint,
    task_groups,
    task_info,
)

HUB = {
    "index": "int64",
    "question": "string",
    "hint": "string",
    "answer": "string",
    "A": "string",
    "B": "string",
    "C": "string",
    "D": "string",
    "category": "string",
    "image": "image",
    "source": "string",
    "L2-category": "string",
    "comment": "string",
    "split": "string",
}
TASKS = {"mmbench_en": "en/dev-00000-of-00001.parquet", "mmbench_cn": "cn/dev-00000-of-00001.parquet"}
LETTER = "Answer with the option's letter from the given choices directly."
ROTATION = 1_000_000


def question(index, options, category, broad, *, hint="nan", ask="Which colour?", absent="nan"):
    """Every rotation of a question; the first option is right."""
    rows = []
    for turn in range(len(options)):
        turned = options[turn:] + options[:turn]
        letters = dict(zip("ABCD", turned + [absent] * (4 - len(options)), strict=True))
        rows.append(
            {
                "index": index + turn * ROTATION,
                "question": ask,
                "hint": hint,
                **letters,
                "answer": "ABCD"[turned.index(options[0])],
                "category": category,
                "L2-category": broad,
                "source": "made",
                "comment": "nan",
                "split": "dev",
                "image": embedded(jpeg(index)),
            }
        )
    return rows


def rows():
    """Rotations of one question are far apart, as in the hub's files."""
    four = question(7, ["red", "green", "blue", "black"], "image_style", "coarse_perception", hint="Look.")
    three = question(3, ["one", "two", "three"], "ocr", "finegrained_perception (instance-level)")
    two = question(9, ["yes", "no"], "ocr", "finegrained_perception (instance-level)", ask="Is it?")
    return [four[0], three[0], two[0], *four[1:], *three[1:], two[1]]


def write(folder, name="mmbench_en", changes=None, **kinds):
    table = [{**row, **(changes or {}).get(row["index"], {})} for row in rows()]
    if kinds.get("index") == "string":
        table = [{**row, "index": str(row["index"])} for row in table]
    return parquet(folder, TASKS.get(name, "data/dev-00000-of-00001.parquet"), table, {**HUB, **kinds})


def answers(task, wrong=()):
    """Right letters by document, and a wrong one for those named."""
    given = {}
    for document in documents(task):
        right = document["answer"]
        given[document["id"]] = right if document["id"] not in wrong else "BA"[right == "B"]
    return given


@pytest.mark.parametrize("name", TASKS)
def test_the_hubs_copy(name, tmp_path, monkeypatch):
    write(fake_hub(monkeypatch, tmp_path / "hub", "lmms-lab/MMBench"), name)
    check_data(name)
    task = load_task(name)
    assert [document["id"] for document in documents(task)] == [
        *("3", "1000003", "2000003"),
        *("7", "1000007", "2000007", "3000007"),
        *("9", "1000009"),
    ]
    assert [document["cluster"] for document in documents(task)] == ["3"] * 3 + ["7"] * 4 + ["9"] * 2
    requests = list(build_requests(task, tmp_path / "images"))
    assert len({request.images[0].key for request in requests}) == 3
    assert requests[0].generation.max_new_tokens == 1024
    values, _ = scored(task, answers(task))
    assert {value for metric, value in values.items() if metric != "n_unparsed"} == {1.0, None}


def test_indices_of_text_as_in_one_revision_of_the_hub(tmp_path):
    write(tmp_path / "text", index="string")
    write(tmp_path / "number")
    text, number = (load_task("mmbench_en", tmp_path / kind) for kind in ("text", "number"))
    assert prompts(text) == prompts(number)
    assert scored(text, answers(text)) == scored(number, answers(number))


def test_the_older_copy_that_llava_was_scored_on(tmp_path, monkeypatch):
    folder = fake_hub(monkeypatch, tmp_path / "hub", "lmms-lab/MMBench_EN")
    table = [{("l2-category" if key == "L2-category" else key): value for key, value in row.items()} for row in rows()]
    columns = {("l2-category" if key == "L2-category" else key): kind for key, kind in HUB.items()}
    parquet(folder, "data/dev-00000-of-00001.parquet", table, columns)
    check_data("mmbench_en_20230712")
    task = load_task("mmbench_en_20230712")
    values, _ = scored(task, answers(task))
    assert values["coarse_perception/accuracy"] == 1.0


def tsv(folder, name, **changes):
    """VLMEvalKit's table; the image of a rotation is the index of the row that has it."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category", "split"]
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(columns)
        for row in rows():
            first = row["index"] % ROTATION
            image = base64.b64encode(row["image"]["bytes"]).decode() if row["index"] == first else str(first)
            cells = {**row, "image": image, "l2-category": row["L2-category"], **changes}
            table.writerow(["" if str(cells[column]) == "nan" else cells[column] for column in columns])


@pytest.mark.parametrize("name", ["MMBench_DEV_EN.tsv", "mmbench_dev_20230712.tsv"])
def test_tables_of_vlmevalkit_and_llava(name, tmp_path):
    tsv(tmp_path / "tsv", name)
    write(tmp_path / "hub")
    check_data("mmbench_en", tmp_path / "tsv")
    table, hub = load_task("mmbench_en", tmp_path / "tsv"), load_task("mmbench_en", tmp_path / "hub")
    assert prompts(table) == prompts(hub)
    wrong = {"2000007"}
    assert scored(table, answers(table, wrong)) == scored(hub, answers(hub, wrong))
    keys = [
        {request.id: request.images[0].load().tobytes() for request in build_requests(task, tmp_path / "images")}
        for task in (table, hub)
    ]
    assert keys[0] == keys[1]


def test_a_table_of_multi_line_cells(tmp_path):
    tsv(tmp_path, "MMBench_DEV_EN.tsv", hint='Two lines\nand a "quote"\there')
    assert prompts(load_task("mmbench_en", tmp_path))["9"].startswith('<image>Two lines\nand a "quote"\there\nIs it?\n')


OPTIONS = "A. red\nB. green\nC. blue\nD. black"
SUFFIX = {"mmbench_en": LETTER, "mmbench_cn": "请直接回答选项字母。"}
LMMS = {"mmbench_en": LETTER, "mmbench_cn": "请直接使用所提供的选项字母作为答案回答。"}


@pytest.mark.parametrize("name", TASKS)
def test_prompts(name, tmp_path):
    write(tmp_path, name)

    def asked(profile):
        found = prompts(load_task(name, tmp_path, {"prompt": profile}))
        return found["7"], found["9"]

    assert prompts(load_task(name, tmp_path))["7"] == asked("original")[0]
    assert asked("original") == (
        f"<image>Look.\nWhich colour?\n{OPTIONS}\n{SUFFIX[name]}",
        f"<image>Is it?\nA. yes\nB. no\n{SUFFIX[name]}",
    )
    assert asked("lmms-eval") == (
        f"<image>Look. Which colour? There are several options:\n{OPTIONS}\n\n{LMMS[name]}",
        f"<image>Is it? There are several options:\nA. yes\nB. no\n\n{LMMS[name]}",
    )
    assert asked("vlmevalkit") == (
        f"<image>Hint: Look.\nQuestion: Which colour?\nOptions:\n{OPTIONS}\n"
        "Please select the correct answer from the options above. \n",
        "<image>Question: Is it?\nOptions:\nA. yes\nB. no\nPlease select the correct answer from the options above. \n",
    )
    # VLMEvalKit looks at the text, not at the task.
    assert asked("vlmevalkit-llava")[1] == f"<image>Is it?\nA. yes\nB. no\n{LETTER}"


def test_vlmevalkits_adapter_asks_in_chinese_where_the_text_is(tmp_path):
    write(tmp_path, "mmbench_cn", {9: {"question": "是吗？"}})
    found = prompts(load_task("mmbench_cn", tmp_path, {"prompt": "vlmevalkit-llava"}))
    assert found["9"] == "<image>是吗？\nA. yes\nB. no\n请直接回答选项字母。"


def test_circular_vanilla_and_categories(tmp_path):
    """The question of four is wrong in one rotation, that of two in its base row."""
    write(tmp_path)
    task = load_task("mmbench_en", tmp_path)
    values, _ = scored(task, answers(task, {"2000007", "9"}))
    assert values["accuracy"] == pytest.approx(1 / 3)
    assert values["vanilla_accuracy"] == pytest.approx(2 / 3)
    assert values["coarse_perception/accuracy"] == values["image_style/accuracy"] == 0
    assert values["finegrained_perception_instance_level/accuracy"] == values["ocr/accuracy"] == 0.5
    assert values["logic_reasoning/accuracy"] is None


def test_unparsable_answers_are_wrong_and_counted(tmp_path):
    write(tmp_path)
    task = load_task("mmbench_en", tmp_path)
    values, parsed = scored(task, {**answers(task), "9": "perhaps", "3": "Cannot determine the answer"})
    assert (values["accuracy"], values["n_unparsed"]) == (pytest.approx(1 / 3), 2)
    assert (parsed["9"], parsed["3"]) == (None, "Z")


def test_parsers_reach_the_score(tmp_path):
    write(tmp_path)
    sentence = {
        document["id"]: f"The answer is {document['answer']}"
        for document in documents(load_task("mmbench_en", tmp_path))
    }
    for parser, accuracy in (("vlmevalkit", 1.0), ("first_letter", 0.0)):
        assert scored(load_task("mmbench_en", tmp_path, {"parser": parser}), sentence)[0]["accuracy"] == accuracy


def test_any_answer(tmp_path):
    write(tmp_path)
    task = load_task("mmbench_en", tmp_path)
    check_nasty(task, answers(task))


def test_unrotated_rows_alone_have_no_circular_accuracy(tmp_path):
    table = [row for row in rows() if row["index"] < ROTATION]
    parquet(tmp_path, "dev.parquet", table, HUB)
    task = load_task("mmbench_en", tmp_path)
    values, _ = scored(task, answers(task))
    assert (values["accuracy"], values["vanilla_accuracy"]) == (None, 1.0)


def test_a_question_needs_every_row_of_the_data(tmp_path):
    """An option that reads "nan" leaves fewer options than rotations: no rotation is left out of the judgement."""
    write(tmp_path, changes={7: {"D": "nan"}, 1000007: {"C": "nan"}, 2000007: {"B": "nan"}})
    task = load_task("mmbench_en", tmp_path)
    given = answers(task)
    assert scored(task, given)[0]["accuracy"] == 1.0
    del given["3000007"]
    values, _ = scored(task, given)
    assert values["coarse_perception/accuracy"] is None


def test_categories_that_nobody_foresaw_count_for_the_whole(tmp_path):
    write(tmp_path, changes={row["index"]: {"category": "new", "L2-category": None} for row in rows()})
    task = load_task("mmbench_en", tmp_path)
    assert scored(task, answers(task))[0]["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({7: {"answer": "E"}}, "must be one of A, B, C, D, not 'E'"),
        ({7: {"index": 1000007}}, "index 1000007 more than once"),
    ],
)
def test_wrong_tables(tmp_path, changes, words):
    write(tmp_path, changes=changes)
    with pytest.raises(UsageError, match=words):
        load_task("mmbench_en", tmp_path)


def test_an_index_that_is_no_number(tmp_path):
    table = [{**row, "index": f"q{row['index']}", "image": "0.jpg"} for row in rows()]
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    (tmp_path / "mmbench.json").write_text(json.dumps(table))
    with pytest.raises(UsageError, match="index 'q7' is no whole number"):
        load_task("mmbench_en", tmp_path)


def test_yaml_and_code_list_the_same_metrics():
    spec = importlib.util.spec_from_file_location("mmbench_utils", resource("tasks") / "mmbench" / "utils.py")
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    for name in (*TASKS, "mmbench_en_20230712"):
        assert tuple(task_info(name).metrics) == utils.METRICS
    assert len(utils.METRICS) == 29
    assert task_groups()["mmbench"] == ("mmbench_en", "mmbench_cn")


def test_a_real_run_counts_broken_rows_and_scores_the_rest(tmp_path):
    broken = {1000009: {"image": None}, 2000007: {"answer": None}, 1000003: {"image": embedded(b"no image")}}
    write(tmp_path / "data", changes=broken)
    spec = RunSpec(
        model="tiny-llava",
        task="mmbench_en",
        data_dir=tmp_path / "data",
        output=tmp_path / "runs",
        generation={"max_new_tokens": 3},
        params={"mmbench_en.prompt": "lmms-eval"},
    )
    (outcome,) = runner.run([spec])
    assert (outcome.record["status"], outcome.n_failed) == ("incomplete", 3)
    lines = [json.loads(line) for line in (outcome.directory / "samples.jsonl").read_text().splitlines()]
    errors = {row["id"].partition("/")[2]: row["error"] for row in lines if row["error"]}
    assert set(errors) == {"1000009", "2000007", "1000003"}
    assert (errors["1000009"], errors["2000007"]) == ("image is null", "answer is null")
    assert "cannot be read" in errors["1000003"]
    metrics = outcome.record["metrics"]
    assert (metrics["accuracy"]["n"], metrics["vanilla_accuracy"]["n"], metrics["n_unparsed"]["n"]) == (0, 3, 6)
    assert metrics["accuracy"]["value"] is None


def test_the_fingerprint_covers_prompts_that_a_function_makes(tmp_path, monkeypatch):
    write(tmp_path)
    profiles = ("original", "original", "lmms-eval")
    marks = [task_fingerprint(load_task("mmbench_en", tmp_path, {"prompt": profile})) for profile in profiles]
    assert marks[0] == marks[1] != marks[2]
    task = load_task("mmbench_en", tmp_path)
    monkeypatch.setattr(task, "doc_to_text", lambda document: "<image>another prompt")
    assert task_fingerprint(task) != marks[0]
