"""What tasks that score captions share: the synonyms table, image lists and their hash, and the checks of both."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sinkbench.chair_synonyms import FILE
from sinkbench.downloads import cache_path
from sinkbench.errors import UsageError
from sinkbench.scoring import amber, chair
from sinkbench.scoring.lemmatize import nltk_nouns
from sinkbench.scoring.metric import Score
from sinkbench.scoring.similar import get_similarity
from sinkbench.tasks.coco import read_photographs
from sinkbench.tasks.layout import Layout
from sinkbench.tasks.rows import parse_row
from sinkbench.tasks.tables import check_table, task_data
from sinkbench.tasks.text_rows import read_text

CHAIR_PROMPTS = {
    "opera": "Please describe this image in detail.",
    "lmms-eval": "Please describe this image in detail.",
    "pai": "Please help me describe the image in detail.",
}
"""By profile; "opera" is that of Less-is-more too."""

AMBER_PROMPTS = {"original": "Describe this image.", "lmms-eval": "Describe this image"}

AMBER_FILES = ("relation.json", "safe_words.txt")


def check_chair(settings: Mapping[str, Any], data_dir: str | Path | None, task: str) -> None:
    """`check_table`, and the synonyms table.

    Raises:
        UsageError: As for `check_table`, or there is no synonyms table.
    """
    _check_images(Layout.of(settings, task), data_dir)
    check_table(settings, data_dir, task)
    chair_words(settings, data_dir, task)


def check_amber(settings: Mapping[str, Any], data_dir: str | Path | None, task: str) -> None:
    """`check_table`, AMBER's word lists, NLTK's data and what similarity needs.

    Raises:
        UsageError: As for `check_table`, or one of the others is missing.
    """
    amber_words(settings, data_dir, task)
    nltk_nouns("a dog")
    get_similarity(settings["similarity"])
    check_table(settings, data_dir, task)


def _check_images(layout: Layout, data_dir: str | Path | None) -> None:
    """An image list chooses among images of a folder; a table in the hub's schema has its own."""
    patterns = (layout.files, "*.parquet")
    is_table = data_dir is None or any(path for pattern in patterns for path in Path(data_dir).glob(pattern))
    if is_table and layout.settings.get("images"):
        raise UsageError(
            f"{layout.task}.images is {layout.settings['images']!r}, but the hub's data hold their own images",
            f"Leave {layout.task}.images out. {layout.hint}",
        )


def chair_words(settings: Mapping[str, Any], data_dir: str | Path | None, task: str = "") -> tuple[str, list[str]]:
    """The synonyms table's text, and further categories, each its own only name.

    CHAIR's table is that in the folder (synonyms.txt), else the one that `sinkbench assets fetch chair-synonyms` has
    fetched. Further categories are those of the folder's annotations that the table lacks; there are none in COCO.

    Args:
        settings: `metadata` with the task's parameters; `synonyms: names` takes the annotations' categories alone.
        data_dir: The data's folder, or None.
        task: For messages.

    Raises:
        UsageError: There is no table.
    """
    layout = Layout.of(settings, task)
    own = settings.get("synonyms") == "names"
    table = "" if own else _chair_table(layout, data_dir)
    if "synonyms" not in settings or data_dir is None:
        return table, []
    photographs = read_photographs(Path(data_dir), layout.hint)
    known = {*chair.read_synonyms(table).values()}
    return table, [name for name in photographs.categories if name not in known] if photographs else []


def _chair_table(layout: Layout, data_dir: str | Path | None) -> str:
    places = [Path(data_dir) / FILE] if data_dir is not None else []
    for path in (*places, cache_path("chair-synonyms") / FILE):
        if path.is_file():
            # Spaces at the ends of lines mean nothing; without them all copies have one hash.
            return "".join(f"{line.strip()}\n" for line in read_text(path, layout).splitlines())
    choice = f", or `--set {layout.task}.synonyms=names` for the categories' own names"
    raise UsageError(
        f"{layout.task} needs CHAIR's table of synonyms, and it is not on this machine",
        f"`sinkbench assets fetch chair-synonyms`, or put its {FILE} into the folder given by --data-dir"
        f"{choice if 'synonyms' in layout.settings else ''}.",
    )


def chair_data(settings: Mapping[str, Any], data_dir: str | Path | None) -> Any:
    """The rows of a CHAIR task with everything that asking and scoring need.

    Further columns: question, synonyms_table, further (`chair_words`), and images_sha256 and synonyms_sha256 for the
    record.
    """
    table, further = chair_words(settings, data_dir)
    data = _with_lists(settings, data_dir, "gt_object")
    return _with_constants(
        data,
        question=CHAIR_PROMPTS[settings["prompt"]],
        synonyms_table=table,
        further="\n".join(further),
        synonyms_sha256=hashlib.sha256(table.encode()).hexdigest(),
        images_sha256=images_hash(data["id"][:]),
    )


def chair_score(document: Mapping[str, Any], caption: str) -> Score:
    """Judge a caption by a document of `chair_data`."""
    text = chair.drop_incomplete_sentence(caption) if document["drop_incomplete_sentence"] else caption
    further = tuple(document["further"].splitlines())
    finder = chair.mention_finder(
        document["synonyms_table"], document["lemmatizer"], document["strict_synonyms"], further
    )
    return chair.score(finder.find(text), document["gt_object"])


def amber_words(settings: Mapping[str, Any], data_dir: str | Path | None, task: str = "") -> str:
    """AMBER's word lists as one text: relation.json, then a line for each safe word.

    Args:
        settings: `lists` names a folder that holds them, where that is not `data_dir` (data of the hub).
        data_dir: The data's folder, or None.
        task: For messages.

    Raises:
        UsageError: One of them is missing or malformed.
    """
    layout = Layout.of(settings, task)
    given = settings["lists"] or data_dir
    if given is None:
        raise UsageError(
            f"the hub's copy of {layout.task} lacks AMBER's word lists ({', '.join(AMBER_FILES)})",
            f"Add `--set {layout.task}.lists=DIR` with a folder that holds them. {layout.hint}",
        )
    folders = [Path(given), Path(given) / "data"]
    texts = []
    for name in AMBER_FILES:
        paths = [folder / name for folder in folders]
        found = [path for path in paths if path.is_file() or path.with_name(f"{name}.gz").is_file()]
        if not found:
            raise UsageError(f"{folders[0]} holds no {name}", layout.hint)
        texts.append(read_text(found[0], layout))
    relation = parse_row(texts[0].strip() or "null", f"{folders[0]}, {AMBER_FILES[0]}", layout.hint)
    wrong = next((word for word, related in relation.items() if not isinstance(related, list)), None)
    if wrong is not None:
        raise UsageError(f"{folders[0]}, {AMBER_FILES[0]}: {wrong!r} must have a list of words", layout.hint)
    return amber.join_words(relation, texts[1].splitlines())


def amber_data(settings: Mapping[str, Any], data_dir: str | Path | None) -> Any:
    """The rows of AMBER's generative task; further columns: question, words (`amber_words`), images_sha256."""
    words = amber_words(settings, data_dir)
    data = _with_lists(settings, data_dir, "truth", "hallu")
    return _with_constants(
        data, question=AMBER_PROMPTS[settings["prompt"]], words=words, images_sha256=images_hash(data["id"][:])
    )


def amber_score(document: Mapping[str, Any], caption: str) -> Score:
    """Judge a response by a document of `amber_data`."""
    words = amber.read_words(document["words"])
    similar = get_similarity(document["similarity"])
    return amber.score(nltk_nouns(caption), document["truth"], document["hallu"], words, similar)


def images_hash(ids: Iterable[str]) -> str:
    """SHA-256 (hex) of image ids, sorted as text, one a line: equal for the same images in any order."""
    return hashlib.sha256("".join(f"{id}\n" for id in sorted(ids)).encode()).hexdigest()


def _with_lists(settings: Mapping[str, Any], data_dir: str | Path | None, *columns: str) -> Any:
    """The task's rows; a text where a list belongs would be judged letter by letter."""
    data = task_data(settings, data_dir)["test"]
    for name in columns:
        if getattr(data.features[name], "dtype", "") == "string":
            raise UsageError(f"column {name!r} must hold lists of strings, not texts", Layout.of(settings).hint)
    return data


def _with_constants(data: Any, **columns: str) -> Any:
    for name, value in columns.items():
        data = data.add_column(name, [value] * len(data))
    return data
