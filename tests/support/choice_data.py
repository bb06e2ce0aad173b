"""Multiple-choice benchmarks in miniature, in the exact schema of the hub."""

from hub_data import embedded, jpeg, write_parquet

NASTY = (
    "",
    " ",
    "A" * 100_000,
    "A " * 50_000,
    "the answer is " * 10_000,
    "🅰️ 😀",
    "إجابة أ",
    "答案是B。",
    "Ａ",
    "\x00",
    "((((((",
    "[A](B){C}",
    ".*(?P<x>)\\",
    "Option",
    "The answer is ",
    "ß\u0130ǆ",
    "E",
    "Z",
    "J.",
    "a",
    "The answer is A. The answer is B.",
)
"""Answers that no benchmark foresaw."""


def fake_hub(monkeypatch, root, hub):
    """An empty snapshot of a data set in a hub cache of its own; asking the hub itself fails the test."""
    from sinkbench.tasks import hub as module

    def refuse(name):
        raise AssertionError(f"the hub was asked for {name}")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    monkeypatch.setattr(module, "reachable", refuse)
    return root / f"datasets--{hub.replace('/', '--')}" / "snapshots" / "abc123"


def kinds(columns):
    """Features of the hub from short names: "string", "int8", "image", "images", "strings"."""
    from datasets import Image, List, Value

    known = {"image": Image(), "images": List(Image()), "strings": List(Value("string"))}
    return {name: known.get(kind) or Value(kind) for name, kind in columns.items()}


def parquet(folder, name, rows, columns):
    """Write rows with all columns of the hub; a row's missing values are null, and images are made if not given."""
    table = []
    for number, row in enumerate(rows):
        made = {
            column: [embedded(jpeg(number))] if kind == "images" else embedded(jpeg(number))
            for column, kind in columns.items()
            if kind in ("image", "images")
        }
        table.append({**dict.fromkeys(columns), **made, **row})
    return write_parquet(folder, name, table, kinds(columns))


def prompts(task):
    """What is asked about each document, by its id."""
    from sinkbench.tasks import documents

    return {document["id"]: task.doc_to_text(document) for document in documents(task)}


def scored(task, answers):
    """Metrics of answers by document id, and the samples' scores and readings by document id."""
    from sinkbench.tasks import score_samples

    name = task.task_name
    metrics, samples = score_samples(task, {f"{name}/{id}": text for id, text in answers.items()})
    values = {metric: result["value"] for metric, result in metrics.items()}
    return values, {id.removeprefix(f"{name}/"): sample["parsed"] for id, sample in samples.items()}


def check_nasty(task, right):
    """No answer breaks the scorer, no metric leaves its range, and the order of answers changes nothing.

    Args:
        task: A loaded task.
        right: A right answer by document id.
    """
    import math

    from sinkbench.tasks import documents, task_info

    given = task.process_results(documents(task)[0], ["A"])
    # lm-eval has no aggregation for a metric that the YAML does not list.
    assert set(given) == set(task_info(task.task_name).metrics)
    for text in NASTY:
        values, _ = scored(task, dict.fromkeys(right, text))
        assert all(0 <= value <= 1 for name, value in values.items() if name != "n_unparsed" and value is not None)
        assert 0 <= values["n_unparsed"] <= len(right)
    mixed = {
        id: answer if number % 2 else NASTY[number % len(NASTY)] for number, (id, answer) in enumerate(right.items())
    }
    assert scored(task, mixed) == scored(task, dict(reversed(mixed.items())))
    values, _ = scored(task, right)
    assert not any(math.isnan(value) for value in values.values() if value is not None)


def evaluate(task, folder, answer):
    """lm-eval's own evaluation of a task or group with a model that always gives one answer."""
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

    from sinkbench.paths import resource

    class Dummy(LM):
        MULTIMODAL = True

        def generate_until(self, requests, disable_tqdm=False):
            return [answer] * len(requests)

        def loglikelihood(self, requests, disable_tqdm=False):
            raise NotImplementedError

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            raise NotImplementedError

    manager = TaskManager(
        include_path=str(resource("tasks")), include_defaults=False, metadata={"data_dir": str(folder)}
    )
    return simple_evaluate(model=Dummy(), tasks=[task], task_manager=manager)


def check_run(name, folder, output):
    """The first two questions of a folder are answered by tiny-llava and scored.

    Args:
        name: Task name.
        folder: Its data.
        output: Where runs go.
    """
    import json

    from sinkbench import runner
    from sinkbench.spec import RunSpec
    from sinkbench.tasks import task_info

    settings = {"data_dir": folder, "output": output, "generation": {"max_new_tokens": 2}, "limit": 2}
    (outcome,) = runner.run([RunSpec(model="tiny-llava", task=name, **settings)])
    record = outcome.record
    assert (record["status"], record["task"]["n_run"], outcome.n_failed) == ("success", 2, 0)
    assert record["task"]["headline"] == next(iter(task_info(name).metrics))
    assert list(record["metrics"]) == list(task_info(name).metrics)
    assert record["metrics"]["n_unparsed"]["n"] == 2
    rows = [json.loads(line) for line in (outcome.directory / "samples.jsonl").read_text().splitlines()]
    assert all(row["text"] is not None and row["score"] in (0, 1) for row in rows)
