"""What the model is to go on from: plain text, token ids, or a conversation in the form its chat template gives it."""

from collections.abc import Iterator
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..loading import first_token
from .fields import RefusedError, check_text


def read_prompts(prompt: Any, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of `prompt`: a text, a list of texts, token ids, or a list of lists of those.

    Raises:
        RefusedError: it is something else.
    """
    if isinstance(prompt, list) and prompt and all(_is_id(item) for item in prompt):
        prompt = [prompt]
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if not prompts:
        raise RefusedError("prompt is an empty list", field="prompt")
    return [_tokens_of(item, tokenizer) for item in prompts]


def _tokens_of(prompt: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if isinstance(prompt, list) and prompt and all(_is_id(item) for item in prompt):
        return prompt
    tokens = tokenizer(check_text(prompt, "prompt"))["input_ids"]
    try:
        return tokens or [first_token(tokenizer, prompt)]
    except InputError as error:
        raise RefusedError(str(error), field="prompt") from None


def _is_id(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def read_conversation(messages: Any, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Token ids of a conversation, as the model is to see it, up to where its answer begins.

    Raises:
        RefusedError: they are no messages, or the tokenizer has no chat template, or one that refuses them.
    """
    if tokenizer.chat_template is None:
        raise RefusedError(
            "this model's tokenizer has no chat template: ask /v1/completions, or fine-tune the model on conversations "
            "and set tokenizer.chat_template to how they were written before saving it",
            code="no_chat_template",
        )
    if not isinstance(messages, list) or not messages:
        raise RefusedError("messages must be a list of messages, and not empty", field="messages")
    conversation = [dict(_fields_of(message)) for message in messages]
    try:
        encoded = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=True)
    except TemplateError as error:
        raise RefusedError(f"the chat template refuses these messages: {error}", field="messages") from None
    if not encoded["input_ids"]:
        raise RefusedError("the chat template makes nothing of these messages", field="messages")
    return [encoded["input_ids"]]


def _fields_of(message: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise RefusedError("each of messages must have a role and a content", field="messages")
    for name, value in message.items():
        if name in ("role", "name"):
            yield name, check_text(value, f"messages: {name}")
        elif name == "content":
            parts = value if isinstance(value, list) else [{"type": "text", "text": value}]
            if not all(isinstance(part, dict) and part.get("type") == "text" for part in parts):
                raise RefusedError("messages: content may hold text alone", field="messages")
            yield name, "".join(check_text(part.get("text"), "messages: content") for part in parts)
        elif value:
            raise RefusedError(f"messages: {name} is not supported here: leave it out", field="messages")
