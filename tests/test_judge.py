"""The judge's endpoint: what is sent, what is retried, what is refused, and that no key is ever told."""

import pytest
from endpoint import serving

from sinkbench import judge
from sinkbench.errors import UsageError
from sinkbench.judge import ATTEMPTS, Judge, NoVerdictError

PARAMS = {"judge": "http://localhost:1/v1", "judge_model": "m", "judge_key": "", "judge_timeout": 60}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(judge, "PAUSE_S", 0.0)


def refused(**changes):
    with pytest.raises(UsageError) as caught:
        Judge.of("mmvet", {**PARAMS, **changes})
    return caught.value


def test_no_address_is_no_judge():
    assert Judge.of("mmvet", {**PARAMS, "judge": ""}) is None
    assert Judge.of("pope", {"parser": "vcd"}) is None


@pytest.mark.parametrize("url", ["http://a:1/v1", "http://a:1/v1/", "http://a:1/v1/chat/completions"])
def test_an_address_may_be_written_in_several_ways(url):
    assert Judge.of("mmvet", {**PARAMS, "judge": url}) == Judge("http://a:1/v1", "m")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"judge": "gpt-4"}, "http"),
        ({"judge": "ftp://a/v1"}, "http"),
        ({"judge": "http://[/v1"}, "http"),
        ({"judge_model": ""}, "--set mmvet.judge_model="),
        ({"judge_timeout": 0}, "at least 1 second"),
        ({"judge_key": "NO_SUCH_VARIABLE_HERE"}, "NO_SUCH_VARIABLE_HERE"),
    ],
)
def test_what_is_no_judge(changes, words):
    error = refused(**changes)
    assert words in error.message + error.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"judge_key": "sk-secret"},
        {"judge": "http://me:sk-secret@localhost/v1"},
        {"judge": "http://localhost/v1?key=sk-secret"},
    ],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_repeated(changes):
    error = refused(**changes)
    assert "sk-secret" not in error.message + error.hint


def test_what_is_sent(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    with serving(lambda prompt: f"echo {prompt}") as endpoint:
        asked = Judge.of("mmvet", {**PARAMS, "judge": endpoint.url, "judge_key": "SOME_KEY"})
        assert asked.reply("är detta rätt?") == "echo är detta rätt?"
        Judge(endpoint.url, "m").reply("x")
    assert endpoint.bodies[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": "är detta rätt?"}],
        "temperature": 0,
    }
    assert endpoint.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "Authorization" not in endpoint.headers[1]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (500, "HTTP 500"),
        (429, "HTTP 429"),
        (400, '"error": "no"'),
        (302, "HTTP 302"),
        (b"<html>", "JSONDecodeError"),
        (b"{}", "no chat completion"),
        (b"[]", "no chat completion"),
        (b'{"choices": [{"message": {"content": null}}]}', "empty"),
        (b"\xff\xfe\xff", "Error"),
        ("  ", "empty"),
        (1.5, "imed"),
    ],
)
def test_failures_are_tried_again_and_then_told(given, words):
    with serving(lambda prompt: given) as endpoint, pytest.raises(NoVerdictError, match=words):
        Judge(endpoint.url, "m", timeout_s=1).reply("x")
    assert len(endpoint.bodies) == ATTEMPTS


def test_a_failure_that_passes():
    replies = iter([500, "0.5"])
    with serving(lambda prompt: next(replies)) as endpoint:
        assert Judge(endpoint.url, "m").reply("x") == "0.5"


def test_nobody_listens():
    with serving(lambda prompt: "") as endpoint:
        pass
    with pytest.raises(NoVerdictError, match="refused"):
        Judge(endpoint.url, "m").reply("x")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_that_every_prompt_would_meet_is_an_error(status, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-secret")
    with serving(lambda prompt: status) as endpoint, pytest.raises(UsageError, match=f"HTTP {status}") as caught:
        Judge(endpoint.url, "m", "SOME_KEY").reply("x")
    assert len(endpoint.bodies) == 1
    assert "sk-secret" not in caught.value.message + caught.value.hint


def test_a_signature_knows_judge_and_prompt():
    first = Judge("http://a/v1", "m")
    assert first.signature("x") == Judge("http://a/v1", "m", "KEY", 5).signature("x")
    others = [first.signature("y"), Judge("http://b/v1", "m").signature("x"), Judge("http://a/v1", "n").signature("x")]
    assert len({first.signature("x"), *others}) == 4
