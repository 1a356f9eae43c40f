"""The model that writes: a request after the other, on a thread of its own, piece by piece for whoever listens."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from ..errors import InputError
from .continuation import Continuation
from .fields import Options, RefusedError

LISTENER_IS_ASKED_EVERY = 0.5  # seconds, while nothing is written


@dataclass(frozen=True)
class Piece:
    """More of a text, and at its end why it ends there."""

    choice: int = 0
    text: str = ""
    finish_reason: str | None = None
    tokens: int = 0  # written for this text in all, known at its end


class Writer:
    """A model and its tokenizer, and the thread on which it writes.

    Requests take turns: two at a time would each be half as fast, and a seed would give another text.
    """

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        """
        Raises:
            InputError: the model does not say how many tokens it holds.
        """
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.positions = getattr(model.config, "max_position_embeddings", None)
        if self.positions is None:
            raise InputError(f"{name} cannot be served: its config.json has no max_position_embeddings")
        ends = model.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends]) - {None}
        tokenizer("")  # settles what its file says about truncation: that cannot change while a thread decodes
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self.closing = threading.Event()

    def room(self, prompts: list[list[int]], max_tokens: int | None, default: int) -> int:
        """How many tokens may be written after each of the prompts.

        Args:
            default: how many where none are asked for, as far as the model has room.

        Raises:
            RefusedError: there is no room for what is asked.
        """
        length, vocabulary = max(map(len, prompts)), self.model.get_input_embeddings().weight.shape[0]
        if not all(0 <= token < vocabulary for prompt in prompts for token in prompt):
            raise RefusedError(f"the prompt has token ids that are not between 0 and {vocabulary - 1}", field="prompt")
        room = self.positions - length
        too_long = {"code": "context_length_exceeded"}
        if room < 1:
            raise RefusedError(
                f"the prompt has {length} tokens, but the model holds {self.positions}, the new ones included: "
                "shorten it",
                **too_long,
            )
        if max_tokens is not None and max_tokens > room:
            raise RefusedError(
                f"max_tokens is {max_tokens}, but after {length} tokens of prompt {room} are left of the model's "
                f"{self.positions}: ask for fewer, or shorten the prompt",
                field="max_tokens",
                **too_long,
            )
        return max_tokens or min(default, room)

    def write(self, prompts: list[list[int]], new_tokens: int, options: Options) -> Iterator[Piece]:
        """The texts, one after the other, in pieces. Whoever stops listening ends the writing.

        Yields:
            Pieces; empty ones when there is nothing new, so that a listener may find out whether it is still needed.

        Raises:
            ConnectionAbortedError: the server ends before the texts do.
        """
        if self.closing.is_set():
            raise ConnectionAbortedError("the server ends")
        pieces: SimpleQueue[Piece | None] = SimpleQueue()
        abandoned = threading.Event()
        job = self.thread.submit(self._write, prompts, new_tokens, options, pieces.put, abandoned)
        job.add_done_callback(lambda _: pieces.put(None))
        try:
            while (piece := self._next(pieces)) is not None:
                yield piece
            if self.closing.is_set():
                raise ConnectionAbortedError("the server ends")
            job.result()  # raises what has gone wrong
        finally:
            abandoned.set()
            job.cancel()

    @staticmethod
    def _next(pieces: SimpleQueue) -> Piece | None:
        try:
            return pieces.get(timeout=LISTENER_IS_ASKED_EVERY)
        except Empty:
            return Piece()

    def _write(
        self,
        prompts: list[list[int]],
        new_tokens: int,
        options: Options,
        put: Callable[[Piece], None],
        abandoned: threading.Event,
    ) -> None:
        if options.seed is None:
            torch.seed()  # the request before may have had one
        else:
            torch.manual_seed(options.seed)
        for choice, prompt in enumerate(prompt for prompt in prompts for _ in range(options.choices)):
            continuation = Continuation(
                self.tokenizer,
                prompt,
                self.ends,
                options.stops,
                heard=lambda text, choice=choice: put(Piece(choice, text)),
                unwanted=lambda: abandoned.is_set() or self.closing.is_set(),
            )
            ids = torch.tensor([prompt], device=self.model.device)
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                num_beams=1,  # a folder may ask for more, of which none can be followed token by token
                stopping_criteria=StoppingCriteriaList([continuation]),
                **options.sampling,
            )
            if abandoned.is_set() or self.closing.is_set():
                return
            rest, reason = continuation.finish(), "stop" if continuation.ended else "length"
            put(Piece(choice, rest, reason, len(continuation.tokens)))

    def close(self) -> None:
        """Ends what is being written, after its next token: a thread must not be in torch when Python ends."""
        self.closing.set()
        self.thread.shutdown(cancel_futures=True)
