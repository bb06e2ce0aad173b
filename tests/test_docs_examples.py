"""The method and the task that docs/add-a-*.md make from nothing work as they stand there."""

import importlib
import json
import sys
import tomllib

import pytest
import torch
from hub_data import jpeg
from markdown_pages import REPOSITORY, titled

METHOD_PAGE = REPOSITORY / "docs" / "add-a-method.md"
TASK_PAGE = REPOSITORY / "docs" / "add-a-task.md"


@pytest.fixture
def hand_over(tmp_path, monkeypatch):
    """The example's distribution, installed."""
    from sinkbench import methods

    project = tomllib.loads(titled(METHOD_PAGE, "pyproject.toml"))["project"]
    (tmp_path / "hand_over.py").write_text(titled(METHOD_PAGE, "hand_over.py"), encoding="utf-8")
    info = tmp_path / f"hand_over-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entries = [
        f"[{group}]\n{name} = {value}\n" for group, es in project["entry-points"].items() for name, value in es.items()
    ]
    (info / "entry_points.txt").write_text("".join(entries))
    monkeypatch.syspath_prepend(tmp_path)
    methods._plugins.cache_clear()
    importlib.invalidate_caches()
    yield methods.get_method
    methods._plugins.cache_clear()
    sys.modules.pop("hand_over", None)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
def test_the_example_method_has_the_matrix_properties(hand_over, family):
    from harness import adapter, close, forced_tokens, logits, requests

    a, asked = adapter(family), requests()
    forced = forced_tokens(len(asked))
    plain = logits(a, hand_over("greedy"), asked, forced)
    assert torch.equal(logits(a, hand_over("hand_over", {"share": 0.0}), asked, forced), plain)
    active = hand_over("hand_over", {"share": 0.9})
    edited = logits(a, active, asked, forced)
    for row, request in enumerate(asked):
        difference = (edited[row] - plain[row]).nan_to_num(neginf=-1e3).abs().amax()
        assert difference > 1e-3 if request.images else difference < 1e-4
        close(edited[row], logits(a, active, [request], forced[row : row + 1])[0])
    close(edited, logits(a, active, asked, forced, share=False))
    close(edited, logits(a, active, asked, forced, static=True))


def test_the_example_method_moves_the_share_and_keeps_the_sum(hand_over):
    from sinkbench.methods.facts import ModelInfo

    bound = hand_over("hand_over", {"share": 0.5}).bind(ModelInfo("m", 4, 2, 2, 8))
    assert [layer for layer in range(4) if layer in bound.layers] == [2, 3]
    # The rest 0.3, template 0.4, image 0.2; then a row without attention on an image.
    mass = torch.tensor([0.3, 0.4, 0.2, 0.3, 0.7, 0.0]).view(1, 1, 2, 3)
    factors = bound.scale_groups(2, mass, None)
    torch.testing.assert_close((factors * mass)[0, 0, 0], torch.tensor([0.3, 0.2, 0.4]))
    assert torch.equal(factors[0, 0, 1], torch.ones(3))


@pytest.fixture
def signs(tmp_path, monkeypatch):
    """The example's task as the one task there is, and its data: three signs, one without an answer."""
    from sinkbench.tasks import catalog

    folder = tmp_path / "tasks" / "signs"
    folder.mkdir(parents=True)
    for name in ("signs.yaml", "utils.py"):
        (folder / name).write_text(titled(TASK_PAGE, f"tasks/signs/{name}"), encoding="utf-8")
    for module in ("catalog", "load"):
        monkeypatch.setattr(f"sinkbench.tasks.{module}.resource", lambda name: tmp_path / "tasks")
    for cached in ("_configs", "_catalog", "task_groups"):
        monkeypatch.setattr(catalog, cached, getattr(catalog, cached).__wrapped__)
    data = tmp_path / "my-signs"
    (data / "images").mkdir(parents=True)
    lines = []
    for number, answer in enumerate(["exit", "push", None]):
        (data / "images" / f"{number}.jpg").write_bytes(jpeg(number))
        lines.append({"number": number, "image": f"{number}.jpg", "question": "What is written?", "answer": answer})
    (data / "signs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return data


def test_the_example_task_asks_and_scores(signs):
    from sinkbench.tasks import documents, load_task, task_info

    assert task_info("signs").params == {"parser": "original"}
    task = load_task("signs", data_dir=signs)
    docs = list(documents(task))
    assert [doc["id"] for doc in docs] == ["0", "1", "2"]
    assert [bool(doc["fault"]) for doc in docs] == [False, False, True]
    assert task.doc_to_text(docs[0]) == "<image>What is written?\nAnswer the question using a single word or phrase."
    assert task.doc_to_image(docs[0])[0].size == (32, 24)
    results = [task.process_results(doc, [answer]) for doc, answer in zip(docs[:2], ["Exit.", "pull"], strict=True)]
    aggregate = task.aggregation()
    assert aggregate["exact_match"]([result["exact_match"] for result in results]) == 0.5
    assert aggregate["n_unparsed"]([result["n_unparsed"] for result in results]) == 0
