"""Calls to the Hub: what may pass is tried again, and what fails for good is said in words, without the token."""

import os
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from training.errors import InputError

from .access import explain_refusal

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 1.0  # doubles from attempt to attempt
LONGEST_WAIT_SECONDS = 330.0  # the Hub counts requests in windows of five minutes
# Where things stand when something fails.
AS_BEFORE = "the branch is as it was, and the same command goes on"
UNKNOWN = "whether the commit was made is not known: the same command finds out and goes on"
TOKEN = re.compile(r"[!-~]+")
Result = TypeVar("Result")


class PublishError(Exception):
    """The Hub or the way to it has failed; the message says what is there now and what to do."""


class Client:
    """The library's client of the Hub, with a token, patience and words.

    Args:
        repo_id: the repository that it is for, `owner/name`; refusals name it.
        endpoint: of the Hub; `None` means `HF_ENDPOINT`, or huggingface.co.
        token: with write access; `None` means `HF_TOKEN`, or that of the library's own login.
        say: takes lines for a person.

    Raises:
        InputError: there is no token, or it or the endpoint cannot be one.
    """

    def __init__(self, repo_id: str, endpoint: str | None, token: str | None, say: Callable[[str], object]):
        self.repo_id = repo_id
        self.say = say
        self.standing = AS_BEFORE  # ends the message of what fails
        self.token = (token or get_token() or "").strip()
        if not self.token:
            raise InputError("there is no token: run `hf auth login`, or set HF_TOKEN to one with write access")
        if not TOKEN.fullmatch(self.token):
            raise InputError("the token has characters that no token has: log in again, or set HF_TOKEN anew")
        endpoint = (endpoint or os.environ.get("HF_ENDPOINT", "")).rstrip("/") or None
        if endpoint and not endpoint.startswith(("https://", "http://")):
            raise InputError(f"HF_ENDPOINT is {endpoint}, but must begin with https://")
        self.api = HfApi(endpoint=endpoint, token=self.token, library_name="gpt-scratch")

    def call(
        self,
        what: str,
        action: Callable[..., Result],
        *arguments: Any,
        made: Callable[[], Result | None] = lambda: None,
        **options: Any,
    ) -> Result:
        """Calls an action, again and again while what fails may pass by itself.

        Args:
            what: the action in words.
            made: asked after each failure whether the work was done all the same.

        Raises:
            InputError: the Hub refuses it.
            PublishError: it has failed for good, or too often.
        """
        wait = FIRST_WAIT_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return action(*arguments, **options)
            except OfflineModeIsEnabled:
                raise InputError("HF_HUB_OFFLINE is set, so nothing can be published: unset it") from None
            except (HTTPError, OSError, RuntimeError, ValueError) as error:
                self._raise_if_final(what, error)
                done = made()
                if done is not None:
                    return done
                if attempt == ATTEMPTS or _status_of(error) == 412:
                    raise PublishError(
                        f"{what} failed {attempt} times, at last with: {self._describe(error)}; {self.standing}"
                    ) from None
                pause = max(wait, _retry_after(error))
                if pause > LONGEST_WAIT_SECONDS:
                    raise PublishError(
                        f"{what} failed: the Hub asks to wait for {pause:.0f} seconds; {self.standing}"
                    ) from None
                self.say(f"{what} failed ({self._describe(error)}); once more in {pause:g} s")
                time.sleep(pause)
                wait *= 2
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _raise_if_final(self, what: str, error: Exception) -> None:
        """Raises what another attempt would not change, nor asking whether this one has done its work."""
        status = _status_of(error)
        if status in (401, 403):
            raise InputError(f"{what}: {explain_refusal(status, self.repo_id)}") from None
        if status == 412 or _may_pass(error):
            return
        if isinstance(error, ValueError):
            raise InputError(f"{what}: the Hub refuses it: {self._describe(error)}") from None
        raise PublishError(f"{what} failed: {self._describe(error)}; {self.standing}") from None

    def _describe(self, error: BaseException) -> str:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            return f"{error.response.status_code} {error.server_message or error.response.reason_phrase}".strip()
        # Of a failed upload the client says no more than that; what it was raised from knows why.
        while isinstance(error, RuntimeError) and error.__cause__ is not None:
            error = error.__cause__
        return " ".join(f"{type(error).__name__}: {error}".split()).replace(self.token, "<token>")


def _status_of(error: BaseException) -> int | None:
    """The HTTP status of an error, or of the one that it was raised from."""
    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code
    return _status_of(error.__cause__) if error.__cause__ is not None else None


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later: too busy, too many, too slow, or cut off."""
    status = _status_of(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    # A failed upload over LFS is a RuntimeError. One over Xet is a ConnectionError after several minutes of attempts of
    # its own, so it is final.
    return isinstance(error, HTTPError | TimeoutError | RuntimeError)


def _retry_after(error: BaseException) -> float:
    """Seconds that the Hub asks to wait: `Retry-After: 30`, or `RateLimit: "api";r=0;t=30`."""
    headers = error.response.headers if getattr(error, "response", None) is not None else {}
    text = headers.get("Retry-After", "")
    window = re.search(r"\br=0;t=(\d+)", headers.get("RateLimit", ""))
    return float(text) if text.isdecimal() else float(window.group(1)) + 1 if window else 0.0
