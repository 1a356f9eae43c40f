"""The fields of a request, each read once; what cannot be done as asked is refused, never left out quietly."""

from dataclasses import dataclass
from typing import Any

from ..errors import InputError

# About the account and its bookkeeping: they change no text.
NO_MATTER = {"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"}
# What a client may send as long as it asks for nothing: its value, where it does not.
IDLE = {
    "best_of": 1,
    "echo": False,
    "frequency_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "modalities": ["text"],
    "presence_penalty": 0,
    "response_format": {"type": "text"},
    "suffix": "",
    "tools": [],
}
GREEDY_BELOW = 1e-5  # logits divided by less are no longer finite


class RefusedError(InputError):
    """A request that is not answered, and why.

    Args:
        status: of HTTP.
        field: of the request, whose fault it is.
        code: by which programs know this error, where OpenAI has one.
    """

    def __init__(self, message: str, *, status: int = 400, field: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.field, self.code = status, field, code


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to write: what chat and plain text have in common."""

    sampling: dict[str, Any]  # for `generate`
    seed: int | None
    max_tokens: int | None
    stops: tuple[str, ...]  # the text ends before the first of these
    choices: int  # texts for each prompt
    stream: bool
    include_usage: bool  # in a stream; other answers have it always


def read_options(body: dict[str, Any], *own: str) -> Options:
    """The options of a request.

    Args:
        body: the request.
        own: names of its fields that are read elsewhere.

    Raises:
        RefusedError: a field is unknown, not supported, or has a value it cannot have.
    """
    given = {name: value for name, value in body.items() if value is not None and name not in NO_MATTER | set(own)}
    temperature = _number(given, "temperature", 0, 2, 1.0)
    sampling = {"do_sample": False}
    top_p, top_k = _number(given, "top_p", 0, 1, 1.0), _whole(given, "top_k", 0, 2**31, 0)
    if temperature >= GREEDY_BELOW:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    limits = [_whole(given, name, 1, 2**31, None) for name in ("max_completion_tokens", "max_tokens")]
    if None not in limits:
        raise RefusedError("max_completion_tokens and max_tokens are the same: give one", field="max_tokens")
    stream = _flag(given, "stream")
    options = Options(
        sampling=sampling,
        seed=_whole(given, "seed", -(2**63), 2**63 - 1, None),
        max_tokens=limits[0] or limits[1],
        stops=_stops(given.pop("stop", ())),
        choices=_whole(given, "n", 1, 128, 1),
        stream=stream,
        include_usage=_include_usage(given.pop("stream_options", {}), stream),
    )
    for name, value in given.items():
        # 0 equals False, but asks for log-probabilities all the same.
        if name not in IDLE or value != IDLE[name] or isinstance(value, bool) != isinstance(IDLE[name], bool):
            raise RefusedError(f"{name} is not supported here: leave it out", field=name)
    return options


def check_text(text: Any, field: str) -> str:
    """The text itself.

    Raises:
        RefusedError: it is no text, or none that can be written down.
    """
    if not isinstance(text, str):
        raise RefusedError(f"{field} must be text", field=field)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RefusedError(f"{field} holds half a surrogate pair, which is no character", field=field) from None
    return text


def _number(given: dict[str, Any], name: str, low: float, high: float, default: float) -> float:
    value = given.pop(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise RefusedError(f"{name} must be a number between {low} and {high}", field=name)
    return float(value)


def _whole(given: dict[str, Any], name: str, low: int, high: int, default: int | None) -> int | None:
    if name not in given:
        return default
    value = given.pop(name)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RefusedError(f"{name} must be a whole number between {low} and {high}", field=name)
    return value


def _flag(given: dict[str, Any], name: str) -> bool:
    value = given.pop(name, False)
    if not isinstance(value, bool):
        raise RefusedError(f"{name} must be true or false", field=name)
    return value


def _stops(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or "" in texts:
        raise RefusedError("stop must be a text or a list of texts, none of them empty", field="stop")
    return tuple(check_text(text, "stop") for text in texts)


def _include_usage(value: Any, stream: bool) -> bool:
    if not isinstance(value, dict) or value.keys() - {"include_usage"}:
        raise RefusedError('stream_options must be {"include_usage": true} or absent', field="stream_options")
    if value and not stream:
        raise RefusedError("stream_options are for a stream alone: give stream too", field="stream_options")
    return _flag(dict(value), "include_usage")
