"""TextVQA, VQAv2, VizWiz and GQA: from the hub's parquet and from their releases to prompts and scores."""

import json
import random

import pytest
from fakes import FakeEngine
from hub_data import embedded, jpeg, write_parquet

from sinkbench.errors import IncompleteError, SampleError, UsageError
from sinkbench.tasks import (
    build_requests,
    check_data,
    documents,
    hub,
    load_task,
    score_samples,
    task_fingerprint,
    task_info,
)

SHORT = "\nAnswer the question using a single word or phrase."
UNANSWERABLE = "\nWhen the provided information is insufficient, respond with 'Unanswerable'."
TASKS = ("textvqa", "vqav2", "vizwiz", "gqa")


def strings():
    from datasets import List, Value

    return List(Value("string"))


def textvqa_rows():
    """Two questions on the first image, one on the second, which shows no text."""
    asked = [("0a", "what does the Sign say?", "stop"), ("0a", "what colour?", "red"), ("0b", "which brand?", "dakota")]
    return [
        {
            "image_id": image,
            "question_id": 34602 + index,
            "question": question,
            "question_tokens": question.rstrip("?").split(),
            "image_width": 32,
            "image_height": 24,
            "flickr_original_url": "https://farm.example/o.jpg",
            "flickr_300k_url": "https://farm.example/z.jpg",
            "answers": [answer] * 8 + ["other", "thing"],
            "image_classes": ["Sign"],
            "set_name": "val",
            "ocr_tokens": ["STOP", "ALL WAY"] if image == "0a" else [],
        }
        for index, (image, question, answer) in enumerate(asked)
    ]


def write_textvqa(folder, rows):
    from datasets import Image, Value

    kinds = {
        "question_id": Value("int32"),
        "image_width": Value("int32"),
        "image_height": Value("int32"),
        "image": Image(),
        **dict.fromkeys(("question_tokens", "answers", "image_classes", "ocr_tokens"), strings()),
    }
    write_table(folder, "data/validation-00000-of-00001.parquet", with_images(rows, "image_id"), kinds)


def vqav2_rows():
    asked = [(7, "Is it raining?", "yes", "yes/no"), (7, "How many dogs?", "2", "number"), (9, "What?", "cat", "other")]
    return [
        {
            "question_type": "is it",
            "multiple_choice_answer": answer,
            "answers": [
                {"answer": answer if turn < 8 else "bird", "answer_confidence": "yes", "answer_id": turn + 1}
                for turn in range(10)
            ],
            "image_id": image,
            "answer_type": kind,
            "question_id": 1000 * image + index,
            "question": question,
        }
        for index, (image, question, answer, kind) in enumerate(asked)
    ]


def write_vqav2(folder, rows):
    from datasets import Image, Value

    answer = {"answer": Value("string"), "answer_confidence": Value("string"), "answer_id": Value("int64")}
    kinds = {"answers": [answer], "image_id": Value("int64"), "question_id": Value("int64"), "image": Image()}
    write_table(folder, "data/validation-00000-of-00001.parquet", with_images(rows, "image_id"), kinds)


def vizwiz_rows():
    asked = [("What is IT?", "basil"), ("What colour?", "unanswerable"), ("ok what is this?", "soda")]
    return [
        {
            "question_id": f"VizWiz_val_{index:08}",
            "question": question,
            "answers": [answer] * 8 + ["basil leaves", "thing"],
            "category": "other",
        }
        for index, (question, answer) in enumerate(asked)
    ]


def write_vizwiz(folder, rows):
    from datasets import Image

    kinds = {"answers": strings(), "image": Image()}
    write_table(folder, "data/val-00000-of-00001.parquet", with_images(rows, "question_id"), kinds)


def gqa_rows():
    """Questions on images n2, n1, n2, so that their order differs from that of the images' file."""
    asked = [("n2", "Is it overcast?", "no"), ("n1", "Who is wearing the dress?", "woman"), ("n2", "What?", "t-shirt")]
    return [
        {
            "id": f"20130725{index}",
            "imageId": image,
            "question": question,
            "answer": answer,
            "fullAnswer": f"It is {answer}.",
            "isBalanced": True,
            "groups": {"global": None, "local": "13-sky_dark"},
            "entailed": "[]",
            "equivalent": "['201307251']",
            "types": {"structural": "verify", "semantic": "attr", "detailed": "weatherVerify"},
            "annotations": {
                name: [{"objectId": "0", "value": "1034"}] for name in ("question", "answer", "fullAnswer")
            },
            "semantic": [{"operation": "select", "argument": "scene", "dependencies": []}],
            "semanticStr": "select: scene",
        }
        for index, (image, question, answer) in enumerate(asked)
    ]


def write_gqa(folder, rows):
    from datasets import Image, List, Value

    text = Value("string")
    noted = [{"objectId": text, "value": text}]
    kinds = {
        "isBalanced": Value("bool"),
        "groups": {"global": text, "local": text},
        "types": {"structural": text, "semantic": text, "detailed": text},
        "annotations": {"question": noted, "answer": noted, "fullAnswer": noted},
        "semantic": [{"operation": text, "argument": text, "dependencies": List(Value("int32"))}],
    }
    write_table(folder, "testdev_balanced_instructions/testdev-00000-of-00001.parquet", rows, kinds)
    images = [{"id": image, "image": embedded(jpeg(index))} for index, image in enumerate(("n1", "n2"))]
    write_table(folder, "testdev_balanced_images/testdev-00000-of-00001.parquet", images, {"image": Image()})


def with_images(rows, cluster):
    names = list(dict.fromkeys(row[cluster] for row in rows))
    return [{"image": embedded(jpeg(names.index(row[cluster]))), **row} for row in rows]


def write_table(folder, name, rows, kinds):
    from datasets import Value

    return write_parquet(folder, name, rows, {column: kinds.get(column, Value("string")) for column in rows[0]})


ROWS = {"textvqa": textvqa_rows, "vqav2": vqav2_rows, "vizwiz": vizwiz_rows, "gqa": gqa_rows}
WRITE = {"textvqa": write_textvqa, "vqav2": write_vqav2, "vizwiz": write_vizwiz, "gqa": write_gqa}
IDS = {
    "textvqa": ["34602", "34603", "34604"],
    "vqav2": ["7000", "7001", "9002"],
    "vizwiz": ["VizWiz_val_00000000", "VizWiz_val_00000001", "VizWiz_val_00000002"],
    "gqa": ["201307250", "201307251", "201307252"],
}
CLUSTERS = {"textvqa": ["0a", "0a", "0b"], "vqav2": ["7", "7", "9"], "vizwiz": IDS["vizwiz"], "gqa": ["n2", "n1", "n2"]}


def images(folder, name, names):
    """The images of a release, the same bytes as in parquet."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(names):
        (folder / name / image).write_bytes(jpeg(index))


def release_textvqa(folder, rows):
    images(folder, "train_images", ["0a.jpg", "0b.jpg"])
    data = [{key: value for key, value in row.items() if key != "ocr_tokens"} for row in rows]
    about = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    (folder / "TextVQA_0.5.1_val.json").write_text(json.dumps({**about, "data": data}))
    tokens = {row["image_id"]: row["ocr_tokens"] for row in rows}
    read = [{"image_id": image, "ocr_tokens": some, "ocr_info": []} for image, some in tokens.items()]
    (folder / "TextVQA_Rosetta_OCR_v0.2_val.json").write_text(json.dumps({"data": read}))


def release_vqav2(folder, rows):
    images(folder, "val2014", [f"COCO_val2014_{number:012}.jpg" for number in (7, 9)])
    questions = [{key: row[key] for key in ("image_id", "question", "question_id")} for row in rows]
    name = "v2_OpenEnded_mscoco_val2014_questions.json"
    (folder / name).write_text(json.dumps({"info": {}, "task_type": "Open-Ended", "questions": questions}))
    # In another order: they are joined by number.
    annotations = [{key: value for key, value in row.items() if key != "question"} for row in reversed(rows)]
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"info": {}, "annotations": annotations}))


def release_vizwiz(folder, rows):
    images(folder, "val", [f"{row['question_id']}.jpg" for row in rows])
    data = [
        {
            "image": f"{row['question_id']}.jpg",
            "question": row["question"],
            "answers": [{"answer": answer, "answer_confidence": "yes"} for answer in row["answers"]],
            "answer_type": "other",
            "answerable": 1,
        }
        for row in rows
    ]
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "val.json").write_text(json.dumps(data))


def release_gqa(folder, rows):
    images(folder, "images", ["n1.jpg", "n2.jpg"])
    data = {row["id"]: {key: value for key, value in row.items() if key != "id"} for row in rows}
    (folder / "testdev_balanced_questions.json").write_text(json.dumps(data))


RELEASE = {
    "textvqa": release_textvqa,
    "vqav2": release_vqav2,
    "vizwiz": release_vizwiz,
    "gqa": release_gqa,
}


def parquet(name, folder, changes=(), params=None):
    """The task on parquet files of the hub's schema, some rows changed."""
    rows = ROWS[name]()
    for index, change in changes:
        rows[index] |= change
    WRITE[name](folder, rows)
    check_data(name, folder, params)
    return load_task(name, folder, params)


def prompts(task, folder):
    return [request.messages[0].text for request in build_requests(task, folder)]


def check_task(name, task, folder):
    """Ids, clusters, images and settings are right, and so are the scores of right answers."""
    docs = list(documents(task))
    assert [each["id"] for each in docs] == IDS[name]
    assert [each["cluster"] for each in docs] == CLUSTERS[name]
    assert {each["fault"] for each in docs} == {""}
    requests = list(build_requests(task, folder))
    assert [request.id for request in requests] == [f"{name}/{id}" for id in IDS[name]]
    assert {request.generation.max_new_tokens for request in requests} == {128}
    assert not any(request.generation.do_sample or request.generation.stop for request in requests)
    keys = [request.images[0].key for request in requests]
    assert [keys.index(key) for key in keys] == [CLUSTERS[name].index(cluster) for cluster in CLUSTERS[name]]
    assert {request.images[0].load().size for request in requests} == {(32, 24)}
    # The image is the question's own: the colours of image 0 and 1 differ.
    red = [request.images[0].load().getpixel((0, 0))[0] for request in requests]
    names = sorted(set(CLUSTERS[name]))
    assert red == pytest.approx([37 * names.index(cluster) for cluster in CLUSTERS[name]], abs=3)
    truth = [each["answer"] if name == "gqa" else each["answers"][0] for each in docs]
    metrics, _ = score_samples(task, {r.id: f"{text.title()}." for r, text in zip(requests, truth, strict=True)})
    assert next(iter(metrics.values()))["value"] == 1.0
    assert metrics["n_unparsed"]["value"] == 0


@pytest.mark.parametrize("name", TASKS)
def test_parquet_in_the_hubs_schema(name, tmp_path):
    check_task(name, parquet(name, tmp_path / "data"), tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == len(set(CLUSTERS[name]))


@pytest.mark.parametrize("name", TASKS)
def test_the_hub_cache_is_found_without_asking_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "reachable", lambda _: pytest.fail("the hub was asked"))
    folder = f"datasets--{task_info(name).hub.replace('/', '--')}"
    WRITE[name](tmp_path / folder / "snapshots" / "abc", ROWS[name]())
    check_data(name)
    check_task(name, load_task(name), tmp_path / "out")


@pytest.mark.parametrize("name", TASKS)
def test_the_release_asks_the_same(name, tmp_path):
    folder = tmp_path / "release"
    folder.mkdir()
    RELEASE[name](folder, ROWS[name]())
    check_data(name, folder)
    task, of_the_hub = load_task(name, folder), parquet(name, tmp_path / "hub")
    check_task(name, task, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert prompts(task, tmp_path / "out") == prompts(of_the_hub, tmp_path / "out")
    assert task_fingerprint(task) == task_fingerprint(of_the_hub)


@pytest.mark.parametrize("name", TASKS)
def test_json_lines_in_the_hubs_schema(name, tmp_path):
    rows = ROWS[name]()
    column = {"vizwiz": "question_id", "gqa": "imageId"}.get(name, "image_id")
    images(tmp_path, "images", [f"{cluster}.jpg" for cluster in sorted(set(CLUSTERS[name]))])
    lines = [json.dumps({**row, "image": f"{row[column]}.jpg"}) for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    check_data(name, tmp_path)
    check_task(name, load_task(name, tmp_path), tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "params", "first"),
    [
        ("textvqa", {}, f"What does the Sign say?\nReference OCR token: STOP, ALL WAY{SHORT}"),
        ("textvqa", {"ocr": False}, f"What does the Sign say?{SHORT}"),
        ("textvqa", {"prompt": "lmms-eval"}, f"What does the sign say?\nReference OCR token: STOP, ALL WAY{SHORT}"),
        ("textvqa", {"prompt": "lmms-eval", "ocr": False}, f"What does the sign say?{SHORT}"),
        ("textvqa", {"prompt": "vlmevalkit", "ocr": False}, f"what does the Sign say?{SHORT}"),
        ("textvqa", {"prompt": "qwen-vl", "ocr": False}, "What does the sign say? Answer:"),
        ("vqav2", {}, f"Is it raining?{SHORT}"),
        ("vqav2", {"prompt": "lmms-eval"}, f"Is it raining?{SHORT}"),
        ("vizwiz", {}, f"What is IT?{UNANSWERABLE}{SHORT}"),
        ("vizwiz", {"prompt": "lmms-eval"}, f"What is it?{UNANSWERABLE}{SHORT}"),
        ("gqa", {}, f"Is it overcast?{SHORT}"),
        ("gqa", {"prompt": "lmms-eval"}, f"Is it overcast?{SHORT}"),
    ],
)
def test_prompts(name, params, first, tmp_path):
    assert prompts(parquet(name, tmp_path / "data", params=params), tmp_path)[0] == f"<image>{first}"


def test_every_prompt_profile_is_tested():
    tested = {"textvqa": 4, "vqav2": 2, "vizwiz": 2, "gqa": 2}
    assert {name: len(task_info(name).choices["prompt"]) for name in TASKS} == tested


def test_a_photograph_without_text_keeps_the_line_of_its_tokens(tmp_path):
    texts = prompts(parquet("textvqa", tmp_path / "data"), tmp_path)
    assert texts[2] == f"<image>Which brand?\nReference OCR token: {SHORT}"


def test_prompt_parser_and_ocr_decide_the_fingerprint(tmp_path):
    task = parquet("textvqa", tmp_path)
    marks = {task_fingerprint(task)}
    for params in ({"ocr": False}, {"prompt": "lmms-eval"}, {"parser": "vlmevalkit"}):
        marks.add(task_fingerprint(load_task("textvqa", tmp_path, params)))
    assert len(marks) == 4
    assert task_fingerprint(load_task("textvqa", tmp_path, {"hub": "mine/textvqa"})) in marks


def test_the_words_of_a_prompt_decide_the_fingerprint(tmp_path, monkeypatch):
    task = parquet("vqav2", tmp_path)
    before = task_fingerprint(task)
    monkeypatch.setattr(task.config, "doc_to_text", lambda doc: f"<image>Now: {doc['question']}")
    assert task_fingerprint(task) != before


def llava_file(folder, rows, change=None):
    lines = [
        {
            "question_id": row["image_id"],
            "image": f"{row['image_id']}.jpg",
            "text": f"{row['question'].upper()}\nReference OCR token: {', '.join(row['ocr_tokens'][:1])}{SHORT}",
            "category": "default",
        }
        for row in rows
    ]
    if change:
        lines[1] |= change
    (folder / "llava_textvqa_val_v051_ocr.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_llavas_question_file_is_followed_to_the_letter(tmp_path):
    rows = textvqa_rows()
    release_textvqa(tmp_path, rows)
    llava_file(tmp_path, rows)
    assert prompts(load_task("textvqa", tmp_path), tmp_path / "out") == [
        f"<image>WHAT DOES THE SIGN SAY?\nReference OCR token: STOP{SHORT}",
        f"<image>WHAT COLOUR?\nReference OCR token: STOP{SHORT}",
        f"<image>WHICH BRAND?\nReference OCR token: {SHORT}",
    ]


def test_a_question_that_llavas_file_lacks_has_a_fault(tmp_path):
    rows = textvqa_rows()
    release_textvqa(tmp_path, rows)
    llava_file(tmp_path, rows[:1] + rows[2:])
    faults = [request.fault for request in build_requests(load_task("textvqa", tmp_path), tmp_path)]
    assert faults == ["", "ocr_tokens is null", ""]


def test_a_line_of_another_form_in_llavas_file_is_named(tmp_path):
    release_textvqa(tmp_path, textvqa_rows())
    llava_file(tmp_path, textvqa_rows(), {"text": "What colour?"})
    with pytest.raises(UsageError, match=r"llava_textvqa_val_v051_ocr.jsonl, row 2: expected .*not 'What colour\?'"):
        check_data("textvqa", tmp_path)


def test_ocr_without_tokens_is_refused_and_says_what_to_type(tmp_path):
    release_textvqa(tmp_path / "release", textvqa_rows())
    (tmp_path / "release" / "TextVQA_Rosetta_OCR_v0.2_val.json").unlink()
    rows = [{key: value for key, value in row.items() if key != "ocr_tokens"} for row in textvqa_rows()]
    write_textvqa(tmp_path / "hub", rows)
    for folder in ("release", "hub"):
        with pytest.raises(UsageError, match="ocr_tokens") as refused:
            check_data("textvqa", tmp_path / folder)
        assert "--set textvqa.ocr=false" in refused.value.hint
        check_data("textvqa", tmp_path / folder, {"ocr": False})
        task = load_task("textvqa", tmp_path / folder, {"ocr": False})
        assert prompts(task, tmp_path / "out")[1] == f"<image>What colour?{SHORT}"


@pytest.mark.parametrize("name", ["textvqa", "vqav2", "vizwiz"])
def test_vqa_accuracy_of_hand_computed_answers(name, tmp_path):
    """Eight of ten agree: right is 1; one of ten agrees: (9 x 1/3 + 1 x 0) / 10 = 0.3."""
    task = parquet(name, tmp_path)
    rows, minority = ROWS[name](), {"textvqa": "thing", "vqav2": "nothing", "vizwiz": "Thing!"}[name]
    right = {"textvqa": "The STOP.", "vqav2": "Yes", "vizwiz": "Basil,"}[name]
    ids = [f"{name}/{id}" for id in IDS[name]]
    metrics, samples = score_samples(task, {ids[0]: right, ids[1]: minority, ids[2]: " \n"})
    expected = [1.0, 0.0 if name == "vqav2" else 0.3, 0.0]
    assert [samples[id]["score"] for id in ids] == pytest.approx(expected)
    assert metrics["vqa_accuracy"]["value"] == pytest.approx(sum(expected) / 3)
    assert (metrics["n_unparsed"]["value"], metrics["vqa_accuracy"]["n"]) == (1, len(rows))


def test_vqav2_by_type_of_question(tmp_path):
    """Of ten, two say bird: (8 x 2/3 + 2 x 1/3) / 10 = 0.6."""
    metrics, _ = score_samples(
        parquet("vqav2", tmp_path), {"vqav2/7000": "yes", "vqav2/7001": "two", "vqav2/9002": "a bird"}
    )
    values = {name: metric["value"] for name, metric in metrics.items()}
    assert values == pytest.approx(
        {
            "vqa_accuracy": 2.6 / 3,
            "yes/no/vqa_accuracy": 1.0,
            "number/vqa_accuracy": 1.0,
            "other/vqa_accuracy": 0.6,
            "n_unparsed": 0.0,
        }
    )
    assert metrics["other/vqa_accuracy"]["n"] == 1


@pytest.mark.parametrize(
    ("parser", "scores"), [("original", [1, 1, 0]), ("lmms_eval", [1, 1, 1]), ("vlmevalkit", [0, 1, 0])]
)
def test_gqa_parsers(parser, scores, tmp_path):
    task = parquet("gqa", tmp_path, params={"parser": parser})
    texts = ("No.", "Woman", "T shirt" if parser == "original" else "tshirt")
    _, samples = score_samples(task, {f"gqa/{id}": text for id, text in zip(IDS["gqa"], texts, strict=True)})
    assert [samples[f"gqa/{id}"]["score"] for id in IDS["gqa"]] == scores


@pytest.mark.parametrize("name", TASKS)
def test_what_is_null_or_missing_is_the_rows_fault_alone(name, tmp_path):
    """A row without truth, and one without question; the first row is broken since lm-eval tries that one out."""
    truth = "answer" if name == "gqa" else "answers"
    task = parquet(name, tmp_path / "data", [(0, {truth: None}), (1, {"question": None})])
    requests = list(build_requests(task, tmp_path / "out"))
    assert [request.fault for request in requests] == [f"{truth} is null", "question is null", ""]
    assert [bool(request.images) for request in requests] == [False, False, True]
    metrics, samples = score_samples(task, {requests[2].id: "x"})
    assert list(samples) == [requests[2].id]
    assert metrics["n_unparsed"]["n"] == 1


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"answers": []}, "answers is empty"),
        ({"answers": ["stop", None]}, "answers holds a null"),
        ({"image": None}, "image is null"),
        ({"ocr_tokens": None}, "ocr_tokens is null"),
    ],
)
def test_other_faults(change, fault, tmp_path):
    task = parquet("textvqa", tmp_path / "data", [(1, change)])
    assert [request.fault for request in build_requests(task, tmp_path / "out")] == ["", fault, ""]


def test_a_null_among_the_annotators_answers(tmp_path):
    answers = [{**vqav2_rows()[1]["answers"][0], "answer": None}]
    task = parquet("vqav2", tmp_path / "data", [(1, {"answers": answers})])
    assert [request.fault for request in build_requests(task, tmp_path)] == ["", "answers holds a null", ""]


def test_a_question_whose_image_is_not_there(tmp_path):
    task = parquet("gqa", tmp_path / "data", [(1, {"imageId": "n3"})])
    assert [request.fault for request in build_requests(task, tmp_path)] == ["", "image is null", ""]


def test_a_vqav2_question_without_annotation(tmp_path):
    release_vqav2(tmp_path, vqav2_rows())
    path = tmp_path / "v2_mscoco_val2014_annotations.json"
    path.write_text(json.dumps({"annotations": json.loads(path.read_text())["annotations"][1:]}))
    faults = [request.fault for request in build_requests(load_task("vqav2", tmp_path), tmp_path)]
    assert faults == ["", "", "answers is null"]


@pytest.mark.parametrize(
    ("name", "break_it", "words"),
    [
        (
            "vqav2",
            lambda folder: (folder / "v2_mscoco_val2014_annotations.json").unlink(),
            "annotations.json is missing",
        ),
        (
            "vqav2",
            lambda folder: (folder / "v2_mscoco_val2014_annotations.json").write_text('{"annotations": [1]}'),
            "a list of objects under 'annotations'",
        ),
        ("textvqa", lambda folder: (folder / "TextVQA_0.5.1_val.json").write_text("{"), "cannot be read"),
        ("gqa", lambda folder: (folder / "testdev_balanced_questions.json").write_text("[]"), "questions by id"),
        ("vizwiz", lambda folder: (folder / "Annotations" / "val.json").write_text("[]"), "no rows"),
        ("gqa", lambda folder: (folder / "images").rename(folder / "pictures"), "none of the 2 images"),
    ],
)
def test_broken_releases_are_explained(name, break_it, words, tmp_path):
    RELEASE[name](tmp_path, ROWS[name]())
    break_it(tmp_path)
    with pytest.raises(UsageError, match=words) as refused:
        check_data(name, tmp_path)
    assert "--data-dir" in refused.value.hint


def test_gqa_needs_both_configurations(tmp_path):
    write_gqa(tmp_path, gqa_rows())
    (tmp_path / "testdev_balanced_images" / "testdev-00000-of-00001.parquet").unlink()
    with pytest.raises(UsageError, match="holds no images of gqa"):
        check_data("gqa", tmp_path)


def test_gqas_two_files_may_lie_in_one_folder(tmp_path):
    write_gqa(tmp_path / "hub", gqa_rows())
    (tmp_path / "flat").mkdir()
    for index, path in enumerate(sorted((tmp_path / "hub").rglob("*.parquet"))):
        path.rename(tmp_path / "flat" / f"{index}.parquet")
    check_data("gqa", tmp_path / "flat")
    check_task("gqa", load_task("gqa", tmp_path / "flat"), tmp_path / "out")


def test_an_unknown_type_of_question_is_refused(tmp_path):
    write_vqav2(tmp_path, [{**row, "answer_type": "colour"} for row in vqav2_rows()])
    with pytest.raises(UsageError, match="'answer_type' must be one of yes/no, number, other, not 'colour'"):
        load_task("vqav2", tmp_path)


def test_order_changes_no_digit(tmp_path):
    draw = random.Random(0)
    rows = [{**row, "question_id": 100 * copy + index} for copy in range(9) for index, row in enumerate(vqav2_rows())]
    answers = {f"vqav2/{row['question_id']}": draw.choice(["yes", "2", "bird", ""]) for row in rows}
    first = None
    for folder in ("one", "two"):
        write_vqav2(tmp_path / folder, rows)
        task = load_task("vqav2", tmp_path / folder)
        scored = task_fingerprint(task), *score_samples(task, answers)
        assert first is None or scored == first
        first = scored
        draw.shuffle(rows)
        pairs = list(answers.items())
        draw.shuffle(pairs)
        answers = dict(pairs)


def lm_eval(name, folder, answer):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from sinkbench.lm import SinkbenchLM
    from sinkbench.paths import resource

    manager = TaskManager(
        include_path=str(resource("tasks")), include_defaults=False, metadata={"data_dir": str(folder)}
    )
    return simple_evaluate(model=SinkbenchLM(engine=answer), tasks=[name], task_manager=manager, bootstrap_iters=0)


@pytest.mark.parametrize("name", TASKS)
def test_lm_eval_leaves_broken_rows_out_and_says_so(name, tmp_path, caplog):
    truth = "answer" if name == "gqa" else "answers"
    task = parquet(name, tmp_path / "data", [(1, {truth: None})])
    said = lm_eval(name, tmp_path / "data", FakeEngine.of(lambda request: "no stop yes basil"))
    requests = [request for request in build_requests(task, tmp_path / "out") if not request.fault]
    metrics, _ = score_samples(task, {request.id: "no stop yes basil" for request in requests})
    # A metric without samples has no value, which lm-eval writes as NaN.
    assert {metric: said["results"][name][f"{metric},none"] for metric in metrics} == pytest.approx(
        {metric: float("nan") if result["value"] is None else result["value"] for metric, result in metrics.items()},
        nan_ok=True,
    )
    assert said["n-samples"][name]["original"] == 2
    assert f"1 of 3 rows are broken and left out: {IDS[name][1]}: {truth} is null" in caplog.text


def test_lm_eval_is_told_which_sample_has_a_broken_image(tmp_path):
    """It breaks off rather than score an answer that was not given; the sound questions are asked."""
    parquet("vqav2", tmp_path / "data", [(1, {"image": embedded(b"no image")})])

    def look(request):
        try:
            request.images[0].load()
        except SampleError as error:
            return error
        return "yes"

    with pytest.raises(IncompleteError, match=r"1 of 3 samples failed; for example vqav2/1: image .* cannot be read"):
        lm_eval("vqav2", tmp_path / "data", FakeEngine.of(look))


def test_lm_eval_keeps_no_list_of_all_documents(tmp_path):
    """200 000 rows as examples for prompts that have none take half a gigabyte."""
    for name in TASKS:
        assert list(parquet(name, tmp_path / name).fewshot_docs()) == []


def test_every_row_broken_is_refused_by_lm_eval(tmp_path):
    parquet("gqa", tmp_path / "data", [(index, {"answer": None}) for index in range(3)])

    with pytest.raises(UsageError, match="every row is broken, for example 201307250: answer is null"):
        lm_eval("gqa", tmp_path / "data", FakeEngine.of(lambda request: "no"))


def test_broken_rows_through_sinkbench_eval(tmp_path):
    """A null answer, bytes that are no image and a truncated image fail their samples; the other two are scored."""
    from typer.testing import CliRunner

    from sinkbench.cli.app import app

    rows = [{**row, "question_id": number} for number, row in enumerate([*vqav2_rows(), *vqav2_rows()[:2]], start=1)]
    rows[1]["answers"] = None
    rows = with_images(rows, "image_id")
    rows[2]["image"], rows[3]["image"] = embedded(b"no image"), embedded(jpeg(5)[:150])
    write_vqav2(tmp_path / "data", rows)
    flags = ["-m", "tiny-llava", "-t", "vqav2", "--data-dir", tmp_path / "data", "-o", tmp_path / "runs"]
    done = CliRunner().invoke(app, ["eval", *map(str, flags), "--max-new-tokens", "4", "--device", "cpu"])
    assert "3 samples failed" in str(done.exception)
    (path,) = (tmp_path / "runs").glob("*/run.json")
    record = json.loads(path.read_text())
    assert (record["status"], record["task"]["n_run"], record["task"]["n_failed"]) == ("incomplete", 5, 3)
    samples = {row["id"]: row for row in map(json.loads, (path.parent / "samples.jsonl").read_text().splitlines())}
    errors = {id: row["error"] for id, row in samples.items() if row["error"]}
    assert set(errors) == {"vqav2/2", "vqav2/3", "vqav2/4"}
    assert errors["vqav2/2"] == "answers is null"
    assert all("cannot be read" in errors[f"vqav2/{number}"] for number in (3, 4))
    assert all(samples[id]["score"] is None and samples[id]["text"] is None for id in errors)
    scored = [row["score"] for id, row in samples.items() if id not in errors]
    assert record["metrics"]["vqa_accuracy"]["value"] == pytest.approx(sum(scored) / 2)
    assert record["metrics"]["n_unparsed"]["n"] == 2
    assert record["metrics"]["other/vqa_accuracy"]["value"] is None


def test_a_missing_file_through_the_runner(tmp_path):
    from sinkbench.runner import run
    from sinkbench.spec import RunSpec

    release_gqa(tmp_path, gqa_rows())
    (tmp_path / "images" / "n1.jpg").unlink()
    spec = RunSpec(
        model="tiny-llava",
        task="gqa",
        data_dir=tmp_path,
        output=tmp_path / "runs",
        device="cpu",
        generation={"max_new_tokens": 2},
    )
    (outcome,) = run([spec])
    assert outcome.n_failed == 1
    assert outcome.first_failure().startswith("gqa/201307251: image ")
    assert "n1.jpg cannot be read" in outcome.first_failure()
    assert outcome.record["metrics"]["exact_match"]["n"] == 2


def test_calibration_and_inspection_leave_broken_rows_out(tmp_path):
    from sinkbench.calibration.data import load_data
    from sinkbench.inspection.sample import Question

    parquet("vqav2", tmp_path / "data", [(1, {"answers": None})])
    data = load_data("vqav2", tmp_path / "data", tmp_path / "out", n=1, seed=0)
    assert [question.request.id for question in data.questions] == ["vqav2/7000", "vqav2/9002"]
    assert [question.answer for question in data.questions] == ["yes", "cat"]
    with pytest.raises(UsageError, match="question 1 of vqav2 is broken: answers is null"):
        Question(None, "", "vqav2", 1, tmp_path / "data").request(tmp_path / "out")
    assert Question(None, "", "vqav2", 2, tmp_path / "data").request(tmp_path / "out").id == "vqav2/9002"
