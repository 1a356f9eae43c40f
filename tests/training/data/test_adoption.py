"""Existing tokenizers: what is saved beside a model encodes a prompt as training encoded its text."""

import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, BertTokenizer, GPT2Tokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from training.data.tokenizer import encoder, load_tokenizer, tokenizer_identity
from training.errors import InputError

TEXT = "The tree by the river. A bird on the stone, and the night.\n" * 20
SPECIAL = ["<s>", "</s>", "<unk>"]


def byte_level() -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([TEXT], trainer)
    return core


def with_template(single: str, **settings) -> PreTrainedTokenizerFast:
    core = byte_level()
    core.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", **settings)


def gpt2(**tokens) -> GPT2Tokenizer:
    core = byte_level()
    merges = [tuple(pair) for pair in _merges(core)]
    return GPT2Tokenizer(vocab=core.get_vocab(), merges=merges, **{"unk_token": "</s>", "eos_token": "</s>"} | tokens)


def _merges(core: Tokenizer) -> list[list[str]]:
    return json.loads(core.to_str())["model"]["merges"]


def llama() -> LlamaTokenizer:
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{value:02X}>" for value in range(256))]
    core.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=350, special_tokens=special, show_progress=False))
    merges = [tuple(pair) for pair in _merges(core)]
    return LlamaTokenizer(vocab=core.get_vocab(), merges=merges, add_bos_token=True)


def bert() -> BertTokenizer:
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    core.train_from_iterator(
        [TEXT], trainers.WordPieceTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    )
    return BertTokenizer(vocab=core.get_vocab())


KINDS = {
    "template": (lambda: with_template("<s> $A </s>"), None, "<s> TEXT </s>"),
    "end after": (lambda: with_template("$A </s>"), None, "TEXT </s>"),
    "GPT-2 with BOS": (lambda: gpt2(bos_token="<s>", add_bos_token=True), None, "<s> TEXT"),
    "Llama": (llama, None, "<s> TEXT"),
    "BERT": (bert, "[SEP]", "[CLS] TEXT [SEP]"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_tokenizer_adds_is_not_in_the_saved_one(kind, tmp_path):
    build, eos_token, found = KINDS[kind]
    build().save_pretrained(tmp_path / "given")
    before = {path.name: path.read_bytes() for path in (tmp_path / "given").iterdir()}
    said = []
    tokenizer = load_tokenizer(str(tmp_path / "given"), eos_token, said.append)
    end = eos_token or "</s>"
    assert said == [
        f"tokenizer {tmp_path / 'given'} makes {found} of a text, but training reads plain text between {end} and "
        f"{end}: the saved tokenizer adds nothing, and its bos_token is {end}"
    ]
    tokenizer.save_pretrained(tmp_path / "saved")
    opened = AutoTokenizer.from_pretrained(tmp_path / "saved")
    text = "the river and A bird"
    inputs = opened(text)
    assert inputs["input_ids"] == encoder(tokenizer).encode(text, add_special_tokens=False).ids
    assert inputs.keys() == {"input_ids", "attention_mask"}  # all that a causal model takes
    assert opened.bos_token_id == opened.eos_token_id == opened.convert_tokens_to_ids(end)

    again = load_tokenizer(str(tmp_path / "saved"), say=said.append)
    assert len(said) == 1
    assert tokenizer_identity(tokenizer) == tokenizer_identity(opened) == tokenizer_identity(again)
    assert {path.name: path.read_bytes() for path in (tmp_path / "given").iterdir()} == before


@pytest.mark.parametrize("build", [lambda: gpt2(bos_token="</s>"), lambda: with_template("</s> $A")])
def test_a_text_that_begins_as_documents_do_is_left_alone(build, tmp_path):
    given = build()
    given.bos_token = "</s>"
    given.save_pretrained(tmp_path)
    said = []
    tokenizer = load_tokenizer(str(tmp_path), say=said.append)
    assert said == []
    assert type(tokenizer) is type(AutoTokenizer.from_pretrained(tmp_path))
    assert tokenizer("a tree")["input_ids"] == given("a tree")["input_ids"]


def test_the_end_of_text_begins_a_text_where_nothing_else_did(tmp_path):
    gpt2(bos_token=None).save_pretrained(tmp_path / "none")
    gpt2(bos_token="<s>").save_pretrained(tmp_path / "other")
    said = []
    for name in ("none", "other"):
        tokenizer = load_tokenizer(str(tmp_path / name), say=said.append)
        assert tokenizer.bos_token_id == tokenizer.eos_token_id == 1
    assert len(said) == 1
    assert "has the bos_token <s>, but documents begin with </s> here" in said[0]


def test_a_chat_template_and_what_else_a_tokenizer_says_stay(tmp_path):
    given = with_template("<s> $A", padding_side="left", model_max_length=77)
    given.chat_template = "{{ messages[0].content }}"
    given.save_pretrained(tmp_path)
    said = []
    tokenizer = load_tokenizer(str(tmp_path), say=said.append)
    assert (tokenizer.padding_side, tokenizer.model_max_length) == ("left", 77)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "a"
    assert "has a chat template, which is saved with the model, though training does not use it" in said[1]


def test_an_end_of_text_can_be_named(tmp_path):
    core = byte_level()
    core.add_special_tokens(["<end>"])
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(tmp_path / "given")
    with pytest.raises(InputError, match=r"no end-of-text token.* eos_token \(likely ones: </s>, <end>, <s>, <unk>\)"):
        load_tokenizer(str(tmp_path / "given"))
    tokenizer = load_tokenizer(str(tmp_path / "given"), "</s>")  # as the message advises
    tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").eos_token == "</s>"
    assert tokenizer.eos_token_id not in encoder(tokenizer).encode("</s>", add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("<stop>", r"eos_token is '<stop>', which tokenizer .* does not have \(likely ones: </s>, <s>, <unk>\)"),
        ("e", "eos_token is 'e', which tokenizer .* makes of such text too"),
        ("[END]", r"eos_token is '\[END\]', which tokenizer .* makes of such text too"),
    ],
)
def test_a_token_that_cannot_end_a_text_is_refused(token, message, tmp_path):
    core = byte_level()
    core.add_tokens([AddedToken("[END]", special=False)])
    PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=message):
        load_tokenizer(str(tmp_path), token)
