"""Rounds of answers: a later turn of a dialogue is asked with the run's own answers to the turns before it."""

from dataclasses import dataclass

import pytest
from fakes import FakeBackend, FakeTask, always, lines, stopping, vary, write_images

from sinkbench import runner
from sinkbench.request import ImageRef, Message, Request
from sinkbench.spec import RunSpec

TURNS = 3


@dataclass
class Dialogues(FakeTask):
    """Questions in dialogues of three turns about one image."""

    def requests(self, image_folder, limit):
        for index, request in enumerate(super().requests(image_folder, limit)):
            turn = index % TURNS
            begun = index - turn
            messages = []
            for number in range(begun, index):
                messages += [Message("user", f"Question {number}?"), Message("assistant", "")]
            messages.append(Message("user", f"Question {index}?"))
            messages[0] = Message("user", f"<image>{messages[0].text}")
            history = tuple(f"fake/{number}" for number in range(begun, index))
            yield Request(request.id, tuple(messages), request.images, request.generation, history=history)


@pytest.fixture
def task(tmp_path):
    write_images(tmp_path / "data", 4)
    return Dialogues(tmp_path / "data")


@pytest.fixture
def spec(tmp_path):
    return RunSpec(model="tiny", task="fake", output=tmp_path / "runs")


def rounds(numbers=range(12)):
    """Ids in the order in which they are asked."""
    return [f"fake/{number}" for turn in range(TURNS) for number in numbers if number % TURNS == turn]


def heard(answerer, log):
    """An answerer that keeps what the assistant is said to have said."""

    def answer(request):
        log[request.id] = [message.text for message in request.messages if message.role == "assistant"]
        return answerer(request)

    return answer


def by_number(prefix):
    return lambda request: f"{prefix} {request.id.partition('/')[2]}"


def test_turns_are_asked_round_by_round_with_the_methods_own_answers(spec, task):
    logs = {"greedy": {}, "var": {}}
    backend = FakeBackend(task, {name: heard(by_number(name), log) for name, log in logs.items()})
    outcomes = runner.run([spec, vary(spec, method="var")], backend=backend)
    (engine,) = backend.engines
    assert engine.asked == {name: rounds() for name in logs}
    for name, log in logs.items():
        assert log["fake/3"] == []
        assert log["fake/5"] == [f"{name} 3", f"{name} 4"]
    assert [outcome.record["efficiency"]["n_answers"] for outcome in outcomes] == [12, 12]
    assert [row["id"] for row in lines(outcomes[0].directory)] == [f"fake/{i}" for i in range(12)]


def test_equal_answers_are_followed_by_shared_turns(spec, task):
    backend = FakeBackend(task, always("yes"))
    runner.run([spec, vary(spec, method="var")], backend=backend)
    assert backend.engines[0].read == rounds()
    differing = FakeBackend(task, {"greedy": always("yes"), "var": always("no")})
    runner.run([vary(spec, seed=1), vary(spec, seed=1, method="var")], backend=differing)
    assert len(differing.engines[0].read) == 4 + 2 * 8


def test_an_interrupted_dialogue_goes_on_where_it_stopped(spec, task, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        runner.run([spec], backend=FakeBackend(task, stopping(by_number("a"), 6, KeyboardInterrupt())))
    log = {}
    backend = FakeBackend(task, heard(by_number("a"), log))
    (resumed,) = runner.run([spec], backend=backend)
    assert backend.engines[0].asked["greedy"] == rounds()[6:]
    assert log["fake/5"] == ["a 3", "a 4"]
    (whole,) = runner.run([vary(spec, output=str(tmp_path / "other"))], backend=FakeBackend(task, by_number("a")))
    assert lines(resumed.directory) == lines(whole.directory)
    assert runner.run([spec], backend=FakeBackend(task, by_number("b")))[0].reused


def test_a_failed_turn_fails_those_after_it_and_all_are_retried(spec, task):
    def broken(request):
        if request.fault:
            return ValueError(request.fault)
        return ValueError("broken") if request.id == "fake/4" else "yes"

    (outcome,) = runner.run([spec], backend=FakeBackend(task, broken))
    failed = {row["id"]: row["error"] for row in lines(outcome.directory) if row["error"]}
    assert failed == {"fake/4": "broken", "fake/5": "fake/4, an earlier turn, has no answer"}
    assert outcome.record["status"] == "incomplete"
    backend = FakeBackend(task, always("no"))
    (mended,) = runner.run([spec], backend=backend)
    assert backend.engines[0].asked == {"greedy": ["fake/4", "fake/5"]}
    assert mended.record["status"] == "success"


def test_another_answer_to_an_earlier_turn_asks_the_later_ones_again(spec, task):
    runner.run([spec], backend=FakeBackend(task, always("yes")))
    (directory,) = spec.output.iterdir()
    text = (directory / "samples.jsonl").read_text()
    rows = text.splitlines()
    rows[3] = rows[3].replace('"text": "yes"', '"text": "no"')
    (directory / "samples.jsonl").write_text("\n".join(rows) + "\n")
    backend = FakeBackend(task, always("yes"))
    runner.run([spec], backend=backend)
    assert backend.engines[0].asked == {"greedy": ["fake/4", "fake/5"]}


def test_stages_on_different_machines(spec, task):
    runner.run([vary(spec, stage="prepare")], backend=FakeBackend(task, always("unused")))
    log = {}
    runner.run([vary(spec, stage="answer")], backend=FakeBackend(task, heard(by_number("a"), log)))
    assert log["fake/2"] == ["a 0", "a 1"]
    (scored,) = runner.run([vary(spec, stage="score")], backend=FakeBackend(task, always("unused")))
    assert scored.record["status"] == "success"


def test_a_limit_may_cut_a_dialogue(spec, task):
    (outcome,) = runner.run([vary(spec, limit=5)], backend=FakeBackend(task, always("yes")))
    assert [row["id"] for row in lines(outcome.directory)] == [f"fake/{i}" for i in range(5)]


def turn(**changes):
    messages = (Message("user", "<image>One?"), Message("assistant", ""), Message("user", "Two?"))
    return Request("t/1", messages, (ImageRef("a.png"),), history=("t/0",), **changes)


def test_answers_take_their_places():
    assert [message.text for message in turn().with_answers({"t/0": "Yes."}).messages] == [
        "<image>One?",
        "Yes.",
        "Two?",
    ]
    alone = Request("t/0", (Message("user", "<image>One?"),), (ImageRef("a.png"),))
    assert alone.with_answers({}) is alone


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        ({}, "t/0, an earlier turn, has no answer"),
        ({"t/0": "an <image> of it"}, "the answer to t/0, an earlier turn, has an image in it"),
    ],
)
def test_what_cannot_be_followed_is_a_fault(texts, fault):
    assert turn().with_answers(texts).fault == fault
    assert turn(fault="answer is null").with_answers(texts).fault == "answer is null"


def test_turns_survive_the_file():
    assert Request.from_json(turn().to_json()) == turn()
    assert "history" not in Request("t/0", (Message("user", "One?"),)).to_json()
