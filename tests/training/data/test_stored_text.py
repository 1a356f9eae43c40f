"""Text in files: compressed, damaged, and of other encodings than UTF-8."""

import gzip
import re
import shutil
import subprocess
import sys

import pytest

from tests.training.data.text_folders import opened, texts
from training.data import stored_text
from training.data.split import survey
from training.errors import InputError

LINES = '{"text": "één"}\n{"text": "two\\nlines"}\n'.encode()


def zstd(content: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    return zstandard.ZstdCompressor(write_content_size=True, write_checksum=True).compress(content)


PACK = {".gz": lambda content: gzip.compress(content, mtime=0), ".zst": zstd}


@pytest.mark.parametrize("ending", PACK)
def test_compressed_files_are_read_as_plain_ones(ending, write_folder):
    pack = PACK[ending]
    folder = write_folder(
        {
            f"a.jsonl{ending}": pack(LINES),
            f"b{ending}": b"no text",
            f"c.TXT{ending}": pack(b"\xef\xbb\xbfwhole\r\n"),
            f"d.csv{ending}": pack(b"text\none"),
            f"e.json{ending}": pack(b'["two"]'),
        }
    )
    assert texts(folder) == ["één", "two\nlines", "whole\r\n", "one", "two"]
    assert opened(folder / f"a.jsonl{ending}").name == "a"


def test_a_zstd_file_may_have_several_frames_of_any_length(write_folder, monkeypatch):
    monkeypatch.setattr(stored_text, "COMPRESSED_BYTES", 7)
    parts = [b"one ", b"", b"two " * 9999, b"three"]
    assert texts(write_folder({"a.txt.zst": b"".join(map(zstd, parts))})) == [b"".join(parts).decode()]


def test_what_a_piece_of_zstd_stands_for_is_not_copied_for_each_read(write_folder):
    text = "a" * 2**25
    file = write_folder({"a.txt.zst": zstd(text.encode())}) / "a.txt.zst"
    with stored_text._ZstdFile(file) as stored:
        stored.readinto(bytearray(8))
        rest = stored._text
        stored.readinto(bytearray(8))
        assert stored._text.obj is rest.obj


@pytest.mark.parametrize("ending", PACK)
def test_damaged_compression_is_refused_by_name(ending, write_folder):
    whole = PACK[ending](b'{"text": "%s"}' % (b"long " * 999))
    name = f"a.jsonl{ending}"
    for content in (whole[:-20], whole[:9], LINES):
        with pytest.raises(InputError, match=rf"{re.escape(name)} is damaged, or not compressed by (gzip|zstd)"):
            texts(write_folder({name: content}))
    assert texts(write_folder({name: b""})) == []


def test_what_is_missing_to_unpack_is_named(write_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(InputError, match=r"a\.txt\.zst needs zstandard: pip install '\.\[data\]'"):
        texts(write_folder({"a.txt.zst": b"x"}))


OLD = "café “x”".encode("cp1252")


def test_all_files_of_another_encoding_are_named_at_once(write_folder):
    files = {"a.txt": "fine", "b.txt": OLD, "c.jsonl": b'{"text": "caf\xe9"}', "d.txt": "x".encode("utf-16")}
    files |= {f"e{number}.md.gz": gzip.compress(OLD) for number in range(4)} | {"f.parquet": b"\xff", "g.txt": "fine"}
    folder = write_folder(files)
    named = ", ".join(str(folder / name) for name in ("b.txt", "c.jsonl", "d.txt"))
    with pytest.raises(InputError) as refused:
        survey(opened(folder))
    start = f"7 files are not UTF-8 text: {named} (UTF-16 by its first bytes), {folder / 'e0.md.gz'}, "
    assert str(refused.value).startswith(start)
    assert f"{folder / 'e1.md.gz'} and 2 more; take out what is no text, and convert the rest" in str(refused.value)


@pytest.mark.skipif(shutil.which("iconv") is None, reason="needs iconv")
@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a b.txt", OLD, "café “x”"),
        ("a.txt", "日本".encode("utf-16"), "日本"),
        ("a.txt.gz", gzip.compress(OLD, mtime=0), "café “x”"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "caf\xe9"}', mtime=0), "café"),
    ],
)
def test_the_command_in_the_message_converts_the_file(name, content, text, write_folder):
    folder = write_folder({name: content})
    with pytest.raises(InputError, match="is not UTF-8 text; take out") as refused:
        survey(opened(folder))
    command = re.search("`(.*)`", str(refused.value))[1]
    subprocess.run(command, shell=True, check=True)
    assert texts(folder) == [text]
