"""A byte-level BPE without further rules, as GPT-2's tokenizer is: what other ones have, and texts that show it."""

from collections.abc import Iterator

from tokenizers import pre_tokenizers

# What tokenizers tend to differ in: words of many scripts, kinds of space and their runs, digits, contractions, signs
# of several code points, bytes that are no letters.
HARD_TEXTS = (
    "The quick brown fox's den, isn't it? We've SEEN what they'Ll do; I'm sure you'd agree: he'll 'tis.",
    "  two  spaces,   three\tand a tab \t \n\n\nthree lines\r\n \n  end   ",
    *("\n", "\n\n\n\n\n", " ", "    ", "\t\t x", "def f(x):\n    return x ** 2  # squared\n\n\n"),
    "1234567890 3.14 1e-5 0x1F 12,345 \uff12\uff10 ٣٤٥ ⅧⅫ ½ x² №5",
    "Füße, naïve façade, e\u0301 against \u00e9, Łódź, ἄνθρωπος, Привет, мир",
    "中文没有空格。日本語もない。ภาษาไทยไม่มีช่องว่าง 한국어는 있다 السلام عليكم שלום नमस्ते दुनिया ሰላም",
    "no\u00a0break\u2003em\u3000wide\u200bzero\u2028line\u0085next",
    "😀🎉 \U0001f469\u200d\U0001f469\u200d\U0001f467 🇩🇪 👍🏽 ❤\ufe0f \U0001d4b3\U0001d51c \U00010348",
    "∑∫√≠≤ €£¥ «quoted» … — “curly” `tick` ~!@#$%^&*()_+[]{}|;:<>?/\\",
    "\x00\x01\x7f\x1b[0m\ufeff\ufffd a_b-c.d/e@f https://x.org/?q=1&r=2#s aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
)


def other_rules(core: dict) -> Iterator[str]:
    """What a tokenizer has beyond a plain byte-level BPE.

    Args:
        core: what its tokenizer.json says.
    """
    model, words = core["model"], core["pre_tokenizer"] or {"type": None}
    if core["normalizer"] is not None:
        yield f"normalizer {core['normalizer']['type']}"
    if words["type"] != "ByteLevel":
        yield f"pre_tokenizer {words['type']}"
    elif words["add_prefix_space"] or not words["use_regex"]:
        yield f"add_prefix_space {words['add_prefix_space']}, use_regex {words['use_regex']}"
    if model["type"] != "BPE":
        yield f"model {model['type']}"
        return
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
        if model.get(name):
            yield f"{name} {model[name]!r}"
    missing = [letter for letter in pre_tokenizers.ByteLevel.alphabet() if letter not in model["vocab"]]
    if missing:
        yield f"{len(missing)} of the 256 bytes missing from its vocabulary"
