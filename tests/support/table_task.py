"""A task "colours" whose data are a table, as if it were in `tasks/`, and its data in the hub's schema."""

from pathlib import Path
from typing import Any

from hub_data import embedded, jpeg, write_parquet

HUB = "somebody/colours"

_YAML = """
task: colours
custom_dataset: !function utils.dataset
test_split: test
output_type: generate_until
num_fewshot: 0
doc_to_image: !function utils.doc_to_image
doc_to_text: "<image>{{question}}"
doc_to_target: answer
process_results: !function utils.score
generation_kwargs: {max_gen_toks: 8, do_sample: false, until: []}
metric_list:
  - {metric: accuracy, aggregation: !function utils.aggregate, higher_is_better: true}
metadata:
  version: 1
  summary: What colour is it?
  source: table
  scheme: vqa
  hub: somebody/colours
  hub_fallback: ""
  revision: ""
  files: data/test-*.parquet
  columns:
    question: string
    answer: [red, blue]
    hint: string?
  id: [part, number]
  cluster: scene
  params:
    hub: []
    hub_fallback: []
    revision: []
"""

_UTILS = """
from sinkbench.scoring import vqa
from sinkbench.scoring.schemes import aggregate, contributions
from sinkbench.tasks.images import open_images as doc_to_image
from sinkbench.tasks.tables import task_data


def dataset(data_dir=None, **settings):
    return task_data(settings, data_dir)


def score(doc, results):
    return contributions("vqa", vqa.NAMES, doc, vqa.score(results[0], [doc["answer"]] * 10))
"""


def install(monkeypatch: Any, folder: Path) -> None:
    """Make `colours` the one task there is, for a test."""
    from sinkbench.tasks import catalog

    (folder / "colours").mkdir(parents=True)
    (folder / "colours" / "colours.yaml").write_text(_YAML)
    (folder / "colours" / "utils.py").write_text(_UTILS)
    for module in ("catalog", "load"):
        monkeypatch.setattr(f"sinkbench.tasks.{module}.resource", lambda name: folder)
    for cached in ("_configs", "_catalog", "task_groups"):
        monkeypatch.setattr(catalog, cached, getattr(catalog, cached).__wrapped__)


def colour_rows(n: int = 4) -> list[dict[str, Any]]:
    """Rows without image; every second scene is new."""
    return [
        {
            "part": "a",
            "number": index,
            "scene": f"scene {index // 2}",
            "question": f"what colour is {index} ?",
            "answer": ("red", "blue")[index % 2],
            "hint": None,
        }
        for index in range(n)
    ]


def write_colours(
    folder: Path, changes: dict[int, dict[str, Any]] | None = None, shards: int = 1, n: int = 4
) -> list[Path]:
    """The rows as parquet with embedded images, as the hub has them.

    Args:
        folder: Of the repository.
        changes: What to change, by row.
        shards: Files to spread them over.
        n: Rows.
    """
    from datasets import Image, Value

    rows = [{**row, "image": embedded(jpeg(i)), **(changes or {}).get(i, {})} for i, row in enumerate(colour_rows(n))]
    kinds = {"number": Value("int32"), "image": Image()}
    features = {column: kinds.get(column, Value("string")) for column in rows[0]}
    size = -(-n // shards)
    return [
        write_parquet(folder, f"data/test-{k:05}-of-{shards:05}.parquet", rows[k * size : (k + 1) * size], features)
        for k in range(shards)
    ]


def fake_hub(monkeypatch: Any, cache: Path, **settings: Any) -> Path:
    """A hub cache with one snapshot of the data, and no way to the hub; the snapshot's folder."""
    import pytest

    from sinkbench.tasks import hub

    snapshot = cache / f"datasets--{HUB.replace('/', '--')}" / "snapshots" / "abc123"
    write_colours(snapshot, **settings)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(hub, "reachable", lambda _: pytest.fail("the hub was asked"))
    return snapshot
