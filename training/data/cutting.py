"""
Where a text may be cut: before a space if there is one near, else between two characters as a reader sees them.

Byte-level tokenizers begin a new token at a space that follows a visible character, so pieces that are cut there have
the whole text's tokens. Scripts without spaces (Chinese, Thai, DNA) have no such place. Every search is bounded, so
time grows with the length of the text, whatever it is.
"""

import unicodedata
from collections.abc import Iterable, Iterator

# Training a tokenizer takes the square of a word's length.
LONGEST_WORD = 1024
LOOK_BACK = 2**16
# Longer than words, emoji and syllables; what has no place to cut at within it is cut anywhere.
NEAR = 64

JOINER = "\u200d"
VIRAMA = 9  # combining class of the sign that joins two consonants
LEADING_JAMO = (("\u1100", "\u115f"), ("\ua960", "\ua97c"))
HANGUL = (("\u1100", "\u115f"), ("\uac00", "\ud7a3"))
# What is no mark by its category, and yet belongs to the character before it (Unicode's annex 29): the joiners, Thai
# and Lao AM, the vowels and ends of Hangul syllables, half-width kana's voicing, skin tones, letters of a tag.
CONTINUES = (
    *(("\u200c", JOINER), ("\u0e33", "\u0e33"), ("\u0eb3", "\u0eb3"), ("\u1160", "\u11ff"), ("\ud7b0", "\ud7fb")),
    *(("\uff9e", "\uff9f"), ("\U0001f3fb", "\U0001f3ff"), ("\U000e0020", "\U000e007f")),
)
REGIONAL_INDICATORS = "".join(map(chr, range(0x1F1E6, 0x1F200)))


def cut_into_pieces(texts: Iterable[str], length: int) -> Iterator[str]:
    """The texts, read as one, in pieces of at most `length` characters."""
    rest = ""
    for text in texts:
        rest += text
        start = 0
        while len(rest) - start > length:
            end = _last_place(rest, start, start + length)
            yield rest[start:end]
            start = end
        rest = rest[start:]
    if rest:
        yield rest


def with_bounded_words(texts: Iterable[str]) -> Iterator[str]:
    """The texts with no word too long to train a tokenizer on. Where there are spaces, the words stay the same."""
    for text in texts:
        yield from cut_into_pieces([text], LONGEST_WORD)


def next_place(text: str, offset: int) -> int:
    """A place near to `offset`, not before it, where no word is cut; of a long word, no character."""
    near = range(offset, min(offset + NEAR, len(text)))
    for place in near:
        if place == 0 or (text[place].isspace() and is_boundary(text, place)):
            return place
    if len(near) < NEAR:
        return len(text)
    return next((place for place in near if is_boundary(text, place)), offset)


def _last_place(text: str, start: int, end: int) -> int:
    first = max(start + 1, end - LOOK_BACK)
    for separator in " \n":
        place = end
        while (place := text.rfind(separator, first, place)) > 0:
            if not text[place - 1].isspace():
                return place
    near = range(end, max(start, end - NEAR), -1)
    return next((place for place in near if is_boundary(text, place)), end)


def is_boundary(text: str, place: int) -> bool:
    """Whether a reader sees two characters where a text is cut at `place`, which is inside it."""
    before, after = text[place - 1], text[place]
    if after.isascii():
        return before + after != "\r\n"
    category = unicodedata.category(after)[0]
    if category == "M" or before == JOINER or _is_within(after, CONTINUES):
        return False
    if unicodedata.combining(before) == VIRAMA:
        return category != "L"
    if _is_within(before, LEADING_JAMO):
        return not _is_within(after, HANGUL)
    if after in REGIONAL_INDICATORS:  # two of them are a flag
        past = text[max(0, place - LONGEST_WORD) : place]
        return (len(past) - len(past.rstrip(REGIONAL_INDICATORS))) % 2 == 0
    return True


def _is_within(character: str, ranges: Iterable[tuple[str, str]]) -> bool:
    return any(first <= character <= last for first, last in ranges)
