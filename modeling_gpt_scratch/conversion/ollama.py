"""
The Modelfile beside a GGUF file: `ollama create NAME -f Modelfile` makes a model of Ollama's from both.

Ollama writes prompts by templates of Go's, not by the Jinja template in the file. One is made from what the tokenizer's
own template writes around a message, and used where it writes the same conversations.
"""

from transformers import PreTrainedTokenizerBase

# A model continues what it is given.
RAW = "{{ .Prompt }}"
ROLES = ("system", "user", "assistant")


def modelfile(gguf: str, context: int, ends: list[str], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of a Modelfile.

    Args:
        gguf: the name of the file beside it, without spaces.
        context: the model's longest sequence in tokens.
        ends: the tokens at which it stops.
        tokenizer: its chat template, where it has one, is turned into Go's.
    """
    lines = [f"FROM ./{gguf}", f"PARAMETER num_ctx {context}", *(f'PARAMETER stop "{end}"' for end in ends if end)]
    template = go_template(tokenizer) if tokenizer.chat_template else RAW
    if template is None:
        lines.append("# Ollama cannot express this model's chat template: it gets prompts as they are written.")
    return "\n".join([*lines, f'TEMPLATE """{template or RAW}"""', ""])


def go_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The tokenizer's chat template as Ollama reads it; `None` where messages are not written one like the other."""
    from jinja2 import TemplateError  # comes with the extras, as chat templates do

    def write(*roles: str, answer: bool = False) -> str:
        messages = [{"role": role, "content": _content(number)} for number, role in enumerate(roles)]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer)

    def around(role: str, *before: str) -> tuple[str, str]:
        """What is written before and after the content of a message that follows others."""
        written = write(*before, role).removeprefix(write(*before))
        left, _, right = written.partition(_content(len(before)))
        return left, right

    try:
        parts = {"assistant": around("assistant", "user"), "user": around("user", "user", "assistant")}
        head = write("user").partition(_content(0))[0].removesuffix(parts["user"][0])
        answer = write("user", answer=True).removeprefix(write("user"))
    except (TemplateError, ValueError):  # the second one: several templates, none of which is the default
        return None
    try:
        left, _, rest = write("system", "user").partition(_content(0))
        parts["system"] = (left.removeprefix(head), rest.partition(parts["user"][0] + _content(1))[0])
    except TemplateError:
        pass  # of a model that has no such role

    conversations = [("user",), ("user", "assistant", "user")]
    conversations += [("system", *conversation) for conversation in conversations if "system" in parts]
    for roles in conversations:
        messages = "".join(_content(number).join(parts[role]) for number, role in enumerate(roles))
        if write(*roles, answer=True) != head + messages + answer:
            return None
    pieces = [head, answer, *(piece for pair in parts.values() for piece in pair)]
    if any(mark in piece for piece in pieces for mark in ("{{", "}}", '"""')):
        return None
    branches = [
        f'if eq .Role "{role}" }}}}{"{{ .Content }}".join(parts[role])}{{{{ ' for role in ROLES if role in parts
    ]
    # llama.cpp puts the beginning of a text there by itself, where the tokenizer does.
    if head and head == tokenizer.bos_token and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]:
        head = ""
    return f"{head}{{{{ range .Messages }}}}{{{{ {'else '.join(branches)}end }}}}{{{{ end }}}}{answer}"


def _content(number: int) -> str:
    """A message that no template has in it."""
    return f"message-{number}"
