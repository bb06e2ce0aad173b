"""A judge: a language model behind an OpenAI-compatible endpoint that is asked how good an answer is.

A task whose answers no rule can score takes its judge from parameters of its own (`--set mmvet.judge=URL`). They say
who scores and not what is asked, so that a run keeps its answers whoever judges them.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sinkbench.errors import UsageError

ATTEMPTS = 3
"""Times that one prompt is sent before it is given up."""

PAUSE_S = 1.0
"""Seconds before the second attempt; twice as many before the next one."""

_ENDPOINT = "/chat/completions"
_REFUSED = {
    401: "the key is missing or wrong",
    403: "the key may not do this",
    404: "there is no such address or model",
}
"""Statuses that every prompt would meet."""

_EXPLAINED = {400, 413, 422}
"""Statuses whose reply says what is wrong with the prompt. Others are not shown: some servers repeat the key."""


class NoVerdictError(Exception):
    """The judge has given no reply to one prompt, or none that can be read; the answer stays without a score."""


def is_judging(name: str) -> bool:
    """Whether a task's parameter says who judges, so that the answers do not depend on it."""
    return name == "judge" or name.startswith("judge_")


@dataclass(frozen=True)
class Judge:
    """A model that is sent one prompt at a time, at temperature 0.

    Attributes:
        url: The endpoint, for example http://localhost:8000/v1.
        model: What the endpoint calls the model.
        key_variable: Environment variable that holds the API key; empty sends none.
        timeout_s: Seconds to wait for a reply.
    """

    url: str
    model: str
    key_variable: str = ""
    timeout_s: int = 60

    @classmethod
    def of(cls, task: str, params: Mapping[str, Any]) -> "Judge | None":
        """The judge that a task's parameters name; None where they name none.

        Args:
            task: Its name, for messages.
            params: All its parameters: judge, judge_model, judge_key and judge_timeout.

        Raises:
            UsageError: They are no judge: no web address, no model, or a key that cannot be had. No message repeats
                what may be a secret.
        """
        url, model, variable = params.get("judge", ""), params.get("judge_model", ""), params.get("judge_key", "")
        if not url:
            return None
        _check_url(url, task)
        if not model:
            raise UsageError(f"{task}.judge has no model", f"Add `--set {task}.judge_model=NAME`.")
        if variable and not re.fullmatch(r"[A-Za-z_]\w*", variable, re.ASCII):
            raise UsageError(
                f"{task}.judge_key is no name of an environment variable",
                f"Put the key into a variable and name that: `--set {task}.judge_key=OPENAI_API_KEY`.",
            )
        if variable and not os.environ.get(variable):
            raise UsageError(
                f"{task}.judge_key names the environment variable {variable}, which is not set",
                f"Type `export {variable}=…` before the command.",
            )
        if params["judge_timeout"] < 1:
            raise UsageError(
                f"{task}.judge_timeout must be at least 1 second, not {params['judge_timeout']}",
                f"For example `--set {task}.judge_timeout=60`.",
            )
        return cls(url.rstrip("/").removesuffix(_ENDPOINT), model, variable, params["judge_timeout"])

    def signature(self, prompt: str) -> str:
        """SHA-256 (hex) of who is asked what: a stored reply with the same one need not be asked for again."""
        return hashlib.sha256(json.dumps([self.url, self.model, prompt]).encode()).hexdigest()

    def reply(self, prompt: str) -> str:
        """What the judge says, at the first attempt that succeeds.

        Raises:
            NoVerdictError: None did.
            UsageError: The endpoint refuses whoever asks.
        """
        fault = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
            try:
                return self._ask(prompt)
            except NoVerdictError as error:
                fault = str(error)
        raise NoVerdictError(fault)

    def _ask(self, prompt: str) -> str:
        from http.client import HTTPException
        from urllib.error import HTTPError

        try:
            document = json.loads(self._send(prompt))
        except HTTPError as error:
            raise self._failure(error) from error
        except (OSError, HTTPException, ValueError) as error:
            raise NoVerdictError(f"{type(error).__name__}: {error}") from error
        try:
            text = document["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise NoVerdictError("the endpoint's reply is no chat completion") from error
        if not isinstance(text, str) or not text.strip():
            raise NoVerdictError("the judge's reply is empty")
        return text

    def _send(self, prompt: str) -> bytes:
        from urllib.request import HTTPRedirectHandler, Request, build_opener

        class Unmoved(HTTPRedirectHandler):
            """Follows no redirection: it would carry the key to another host."""

            def redirect_request(self, *given: Any) -> None:
                """None makes the redirection an error."""

        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        headers = {"Content-Type": "application/json"}
        if self.key_variable:
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable]}"
        request = Request(self.url + _ENDPOINT, json.dumps(body).encode(), headers)
        with build_opener(Unmoved).open(request, timeout=self.timeout_s) as response:
            content: bytes = response.read()
            return content

    def _failure(self, error: Any) -> Exception:
        """What a status that is no success means."""
        if error.code in _REFUSED:
            return UsageError(
                f"the judge at {self.url} refuses with HTTP {error.code}: {_REFUSED[error.code]}",
                "Correct the judge's address, model or key (judge, judge_model, judge_key) and run the same command "
                "again: answers and verdicts are kept.",
            )
        detail = error.read(200).decode("utf-8", "replace") if error.code in _EXPLAINED else error.reason
        return NoVerdictError(f"HTTP {error.code}: {detail}")


def _check_url(url: str, task: str) -> None:
    from urllib.parse import urlsplit

    hint = f"For example `--set {task}.judge=http://localhost:8000/v1`."
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        known = False
    if not known:
        raise UsageError(f"{task}.judge is no address that begins with http:// or https://", hint)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            f"{task}.judge holds more than an address, and it is written into run.json",
            f"{hint} A key goes into an environment variable: `--set {task}.judge_key=OPENAI_API_KEY`.",
        )
