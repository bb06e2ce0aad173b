"""AMBER's generative task from its release and from the hub's copy with the word lists beside it."""

import gzip
import json

import pytest
from hub_data import embedded, jpeg, write_parquet
from nasty import NASTY
from shared_data import shared

from sinkbench import runner
from sinkbench.errors import UsageError
from sinkbench.language_data import unpack
from sinkbench.spec import expand
from sinkbench.tasks import build_requests, captions, check_data, documents, hub, load_task, score_samples

LISTS = {"similarity": "lists"}
RELATION = {"grass": ["lawn"], "dog": ["puppy"], "cat": [], "cloud": [], "man": ["person"]}


def nouns(text):
    """A tagger for machines without NLTK's data: every word but articles is a noun."""
    return [word.strip(".,") for word in text.split() if word not in ("a", "and", "the")]


@pytest.fixture(autouse=True)
def no_nltk(monkeypatch):
    monkeypatch.setattr(captions, "nltk_nouns", nouns)


def annotations():
    generative = [
        {"id": 1, "type": "generative", "truth": ["grass", "dog"], "hallu": ["cat", "cloud"]},
        {"id": 2, "type": "generative", "truth": ["cat"], "hallu": ["man"]},
    ]
    return [*generative, {"id": 3, "type": "discriminative-attribute-state", "truth": "no"}]


def write_lists(folder):
    (folder / "relation.json").write_text(json.dumps(RELATION))
    (folder / "safe_words.txt").write_text("light\norange\n")


@pytest.fixture(params=["flat", "repository"])
def release(request, tmp_path):
    """The release's files in one folder, or as its repository has them."""
    folder = tmp_path / "amber"
    home = folder / "data" if request.param == "repository" else folder
    queries = home / "query" if request.param == "repository" else home
    queries.mkdir(parents=True)
    images = folder / ("image" if request.param == "repository" else "images")
    images.mkdir()
    (home / "annotations.json").write_text(json.dumps(annotations()))
    asked = [{"id": id, "image": f"AMBER_{id}.jpg", "query": "Describe this image."} for id in (1, 2)]
    (queries / "query_generative.json").write_text(json.dumps(asked))
    write_lists(home)
    for id in (1, 2):
        (images / f"AMBER_{id}.jpg").write_bytes(jpeg(id))
    return folder


def load(folder, **params):
    check_data("amber_g", folder, LISTS | params)
    return load_task("amber_g", folder, LISTS | params)


def check_scores(task):
    """Three of four judged nouns are wrong; one of three true words, two of three foreseen ones are named."""
    answers = {"amber_g/1": "a puppy and a cat and spoon", "amber_g/2": "the person. cloud light"}
    metrics, scores = score_samples(task, answers)
    values = {name: metric["value"] for name, metric in metrics.items()}
    assert values == pytest.approx({"chair": 3 / 4, "cover": 1 / 3, "hal": 1.0, "cog": 2 / 3, "n_unparsed": 0})
    assert scores["amber_g/1"]["parsed"] == {"mentioned": ["puppy", "cat"], "hallucinated": ["cat"]}
    assert score_samples(task, dict(reversed(answers.items())))[0] == metrics


def test_the_release(release, tmp_path):
    task = load(release)
    check_scores(task)
    requests = list(build_requests(task, tmp_path / "written"))
    assert [request.id for request in requests] == ["amber_g/1", "amber_g/2"]
    assert all(request.images[0].load().size == (32, 24) for request in requests)
    assert requests[0].generation.max_new_tokens == 512


@pytest.mark.parametrize(
    ("prompt", "text"), [("original", "Describe this image."), ("lmms-eval", "Describe this image")]
)
def test_prompts(release, tmp_path, prompt, text):
    request = next(iter(build_requests(load(release, prompt=prompt), tmp_path)))
    assert request.messages[0].text == f"<image>{text}"


def write_hub(folder):
    from datasets import Image, List, Value

    words = List(Value("string"))
    features = {
        "question_id": Value("int64"),
        "image": Image(),
        "text": Value("string"),
        "task_type": Value("string"),
        "truth": words,
        "hallu": words,
    }
    rows = [
        {"question_id": row["id"], "image": embedded(jpeg(row["id"])), "text": "", "task_type": "generative"}
        | {name: row[name] for name in ("truth", "hallu")}
        for row in annotations()[:2]
    ]
    rows.append({**rows[0], "question_id": 9, "truth": None})
    write_parquet(folder, "data/train-00000-of-00001.parquet", rows, features)


def test_the_hubs_copy_needs_the_lists(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "reachable", lambda _: pytest.fail("the hub was asked"))
    write_hub(tmp_path / "hub" / "datasets--Kyunnilee--amber_g" / "snapshots" / "abc")
    with pytest.raises(UsageError, match="lacks AMBER's word lists") as refused:
        check_data("amber_g", None, LISTS)
    assert "amber_g.lists=DIR" in refused.value.hint
    write_lists(tmp_path)
    task = load(None, lists=str(tmp_path))
    check_scores(task)
    assert "lists" not in documents(task).column_names
    assert [request.fault for request in build_requests(task, tmp_path / "images")] == ["", "", "truth is null"]


def test_the_hubs_copy_in_a_folder_with_the_lists(tmp_path):
    write_hub(tmp_path)
    write_lists(tmp_path)
    check_scores(load(tmp_path))


def test_packed_files(release):
    for path in [*release.rglob("*.json"), *release.rglob("*.txt")]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    check_scores(load(release))


def test_what_is_missing_is_named(release):
    for name in ("relation.json", "query_generative.json"):
        next(release.rglob(name)).rename(release / "kept")
        with pytest.raises(UsageError, match=f"holds no {name}"):
            load(release)
        (release / "kept").rename(next(release.rglob("annotations.json")).parent / name)
    relation = next(release.rglob("relation.json"))
    for text, words in (("{", "no valid JSON"), ('{"cat": "kitten"}', "'cat' must have a list of words")):
        relation.write_text(text)
        with pytest.raises(UsageError, match=words):
            load(release)
    write_lists(relation.parent)
    asked = next(release.rglob("query_generative.json"))
    asked.write_text(json.dumps([{"id": 3, "image": "AMBER_3.jpg"}]))
    with pytest.raises(UsageError, match="query 3 has no generative annotation"):
        load(release)


def test_never_another_metric_in_silence(release):
    """Without spaCy's vectors the default is refused, not replaced."""
    pytest.importorskip("nltk")
    try:
        import spacy  # noqa: F401
    except ImportError:
        with pytest.raises(UsageError, match="spaCy and its word vectors"):
            check_data("amber_g", release)


@pytest.mark.parametrize("text", NASTY)
def test_no_answer_breaks_the_scorer(release, text):
    metrics, _ = score_samples(load(release), {"amber_g/1": text})
    assert all(0 <= metrics[name]["value"] <= 1 for name in ("chair", "cover", "hal", "cog"))


def test_the_real_tiny_model_from_end_to_end(release, tmp_path):
    settings = {"model": "tiny-llava", "task": "amber_g", "params": {"amber_g.similarity": "lists"}, "limit": 2}
    specs = expand({**settings, "data_dir": release, "output": tmp_path / "runs", "device": "cpu"})
    (outcome,) = runner.run(specs)
    assert outcome.record["status"] == "success"
    assert outcome.record["metrics"]["cover"]["n"] == 2


def test_the_published_lists(tmp_path, monkeypatch):
    """1004 images; a response of an image's own true words makes nothing up."""
    import nltk

    folder = tmp_path / "data"
    folder.mkdir()
    for path in shared("amber").iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "AMBER_1.jpg").write_bytes(jpeg())
    unpack(shared("nltk_data.tar.gz"), tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk_data")])
    task = load(folder)
    docs = {f"amber_g/{doc['id']}": doc for doc in documents(task)}
    assert len(docs) == 1004
    _, scores = score_samples(task, {"amber_g/1": "Two dogs walk on the grass under clouds and a moon."})
    assert scores["amber_g/1"]["parsed"]["mentioned"] == ["dog", "grass", "cloud", "moon"]
    monkeypatch.setattr(captions, "nltk_nouns", lambda text: text.split())
    truthful = {id: " ".join(doc["truth"]) for id, doc in docs.items()}
    metrics, _ = score_samples(task, truthful)
    assert (metrics["chair"]["value"], metrics["hal"]["value"]) == (0, 0)
    # Safe words cover nothing, and a word that is related to another one covers that in its place.
    assert metrics["cover"]["value"] == pytest.approx(0.93302, abs=1e-5)
