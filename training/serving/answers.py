"""The shapes of OpenAI's answers, for plain text and for chat: whole, or as the chunks of a stream."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from .writer import Piece


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What all chunks of an answer share, and how they differ between plain text and chat."""

    model: str
    chat: bool
    prompt_tokens: int
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, texts: list[str], ends: list[Piece]) -> dict[str, Any]:
        """The answer in one.

        Args:
            texts: the choices.
            ends: the last piece of each.
        """
        choices = [
            self._choice(end.choice, end.finish_reason, self._text(text, "message"))
            for text, end in zip(texts, ends, strict=True)
        ]
        return self._around(choices, "chat.completion") | {"usage": self.usage(ends)}

    def opening(self, choice: int) -> dict[str, Any]:
        """The chunk before a choice's first text: of a chat, who speaks."""
        delta = {"delta": {"role": "assistant", "content": ""}} if self.chat else {"text": ""}
        return self._around([self._choice(choice, None, delta)], "chat.completion.chunk")

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """A piece of a stream."""
        text = self._text(piece.text, "delta")
        return self._around([self._choice(piece.choice, piece.finish_reason, text)], "chat.completion.chunk")

    def closing(self, ends: list[Piece]) -> dict[str, Any]:
        """The chunk after all choices, for those who want to know what the stream has used."""
        return self._around([], "chat.completion.chunk") | {"usage": self.usage(ends)}

    def usage(self, ends: list[Piece]) -> dict[str, int]:
        """Tokens read, each prompt once, and written, those that end a text included."""
        written = sum(end.tokens for end in ends)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written,
        }

    def _text(self, text: str, place: str) -> dict[str, Any]:
        if not self.chat:
            return {"text": text}
        return {place: {"role": "assistant", "content": text} if place == "message" else {"content": text}}

    @staticmethod
    def _choice(index: int, finish_reason: str | None, text: dict[str, Any]) -> dict[str, Any]:
        return {"index": index, **text, "logprobs": None, "finish_reason": finish_reason}

    def _around(self, choices: list[dict[str, Any]], chat_object: str) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}",
            "object": chat_object if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }


def model_card(name: str, created: int) -> dict[str, Any]:
    """The one model, as the list of models shows it."""
    return {"id": name, "object": "model", "created": created, "owned_by": "local"}


def error_body(message: str, *, kind: str, field: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error, as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": field, "code": code}}
