"""A text that grows by tokens: what of it is certain, and where it ends."""

from collections.abc import Callable

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria

INCOMPLETE = "\ufffd"  # what a decoder gives for bytes that are no character, or not yet


class Continuation(StoppingCriteria):
    """Follows `generate`: says what is new in the text after each token, and stops it at a stop text."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: list[int],
        ends: set[int],
        stops: tuple[str, ...],
        heard: Callable[[str], None],
        unwanted: Callable[[], bool],
    ):
        """
        Args:
            ends: tokens that end a text and are no part of it.
            stops: texts before which it ends.
            heard: called with every new part of the text.
            unwanted: whether nobody listens any more.
        """
        self.tokenizer, self.prompt, self.ends, self.stops = tokenizer, prompt, ends, stops
        self.heard, self.unwanted = heard, unwanted
        self.before = self._decode(prompt)
        self.tokens: list[int] = []
        self.text = ""
        self.said = 0  # characters of it
        self.ended = False

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs) -> torch.BoolTensor:
        self.tokens = input_ids[0, len(self.prompt) :].tolist()
        self._read()
        certain = len(self.text) if self.ended else self._certain()
        if certain > self.said:
            self.heard(self.text[self.said : certain])
            self.said = certain
        done = self.ended or self.unwanted()
        return torch.full((input_ids.shape[0],), done, dtype=torch.bool, device=input_ids.device)

    def finish(self) -> str:
        """What has not been said, at the end of the text."""
        return self.text[self.said :]

    def _read(self) -> None:
        at_end = self.tokens[-1] in self.ends
        written = self._decode(self.prompt + self.tokens[: -1 if at_end else None])
        # Decoded alone, a first word loses its space with tokenizers that begin each word with one.
        self.text = written[len(self.before) :]
        found = [at for stop in self.stops if (at := self.text.find(stop)) >= 0]
        self.ended = at_end or bool(found)
        self.text = self.text[: min(found, default=None)]

    def _certain(self) -> int:
        """How much of the text stays as it is: not what may become a character, or turn out as a stop text's begin."""
        text = self.text.rstrip(INCOMPLETE)
        begun = (
            length
            for stop in self.stops
            for length in range(min(len(stop) - 1, len(text)), 0, -1)
            if text.endswith(stop[:length])
        )
        return len(text) - max(begun, default=0)

    def _decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
