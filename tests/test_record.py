import dataclasses
import hashlib
import json
import tracemalloc
from pathlib import Path

import pytest

from sinkbench.adapters.presets import resolve_model
from sinkbench.downloads import ASSETS
from sinkbench.record import answered, model_identity, prompt_hash, question, sample_row
from sinkbench.request import Generation, ImageRef, Message, Request, Response
from sinkbench.schemas import validate

REQUEST = Request(
    "t/0",
    (Message("system", "Be brief."), Message("user", "<image>Is there a dog?")),
    (ImageRef("a.png", "0" * 64),),
    Generation(max_new_tokens=4, stop=("\n", "é")),
)


def row(request=REQUEST, error=""):
    return sample_row("t", request, Response(request.id, "yes", finish="error" if error else "stop", error=error))


def test_the_prompt_hash_is_that_of_earlier_releases():
    asked = {key: value for key, value in dataclasses.asdict(REQUEST).items() if key in ("messages", "generation")}
    # What later releases let a request ask for, where it does not ask for it.
    later = {"num_beams": 1, "length_penalty": 1.0, "candidates": 0, "patience": 0}
    assert {key: asked["generation"].pop(key) for key in later} == later
    assert prompt_hash(REQUEST) == hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def test_an_answer_is_known_by_its_question():
    assert answered([row()]) == {"t/0": question(REQUEST)}


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": (Message("user", "<image>Is there a cat?"),)},
        {"images": (ImageRef("a.png", "1" * 64),)},
        {"generation": Generation(max_new_tokens=5)},
        {"generation": dataclasses.replace(REQUEST.generation, num_beams=5)},
        {"generation": dataclasses.replace(REQUEST.generation, length_penalty=2.0)},
    ],
)
def test_other_words_images_and_settings_are_another_question(changes):
    assert question(dataclasses.replace(REQUEST, **changes)) != question(REQUEST)


def test_an_image_may_lie_elsewhere():
    assert question(dataclasses.replace(REQUEST, images=(ImageRef("b.png", "0" * 64),))) == question(REQUEST)


def test_details_of_a_sample_are_kept_where_there_are_any():
    """Lines of methods without any are what they always were."""
    assert "details" not in row()
    cropped = sample_row("t", REQUEST, Response(REQUEST.id, "yes", details={"boxes": [[[0, 1, 20, 30]]]}))
    assert cropped == {**row(), "details": {"boxes": [[[0, 1, 20, 30]]]}}
    validate(json.loads(json.dumps(cropped)), "sample")
    with pytest.raises(ValueError, match=r"sample\.schema\.json"):
        validate({**cropped, "details": {}}, "sample")


def test_the_newest_line_says_whether_a_sample_is_answered():
    other = dataclasses.replace(REQUEST, messages=(Message("user", "Is there a cat?"),))
    assert answered([row(error="broken"), row()]) == {"t/0": question(REQUEST)}
    assert answered([row(), row(error="broken")]) == {}
    assert answered([row(), row(other)]) == {"t/0": question(other)}


def test_what_is_answered_takes_little_memory():
    n = 100_000
    tracemalloc.start()
    try:
        known = answered({**ROW, "id": f"t/{i}"} for i in range(n))
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(known) == n
    assert size < 25 * 2**20


ROW = row()


def test_a_fetched_model_is_the_same_one_on_every_machine(tmp_path, monkeypatch):
    fingerprints = set()
    for folder in ("here", "there"):
        monkeypatch.setenv("SINKBENCH_CACHE", str(tmp_path / folder))
        preset = resolve_model("smol-llava")
        (tmp_path / folder / f"smol-llava-{ASSETS['smol-llava'].version}").mkdir(parents=True)
        (Path(preset.location) / "config.json").write_text(json.dumps({"_name_or_path": folder}))
        fingerprints.add(model_identity(preset)["fingerprint"])
    (fingerprint,) = fingerprints
    monkeypatch.setitem(ASSETS, "smol-llava", dataclasses.replace(ASSETS["smol-llava"], version="other"))
    assert model_identity(preset)["fingerprint"] != fingerprint
