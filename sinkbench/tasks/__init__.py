"""Tasks: lm-eval's YAML files in `tasks/`, listed and checked without lm-eval, loaded and scored with it.

A new task is a YAML file. Its `metadata` names the kind of data (`source`), the family of metrics (`scheme`) and what
may be changed (`params`); further kinds of data are functions in this package, further families modules of
`sinkbench.scoring`.
"""

from sinkbench.tasks.catalog import Direction, TaskInfo, task_groups, task_info, task_names
from sinkbench.tasks.load import (
    build_requests,
    check_data,
    dataset_fingerprint,
    documents,
    load_task,
    recorded_data,
    request_id,
    right_answers,
    task_fingerprint,
)
from sinkbench.tasks.score import MetricResult, SampleScore, score_samples

__all__ = [
    "Direction",
    "MetricResult",
    "SampleScore",
    "TaskInfo",
    "build_requests",
    "check_data",
    "dataset_fingerprint",
    "documents",
    "load_task",
    "recorded_data",
    "request_id",
    "right_answers",
    "score_samples",
    "task_fingerprint",
    "task_groups",
    "task_info",
    "task_names",
]
