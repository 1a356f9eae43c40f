"""Which format a source is in, where it comes from, and what is said when neither is clear."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from modeling_gpt_scratch import GPTScratchForCausalLM
from modeling_gpt_scratch.__main__ import main
from modeling_gpt_scratch.conversion import FORMATS, ConversionError, convert, opening
from modeling_gpt_scratch.conversion import source as sources
from tests.conversion.conversions import (
    TOLERANCE,
    assert_same_logits,
    book_model,
    fused_model,
    gpt2_model,
    refusal,
    run_program,
    write_blog,
    write_gpt2,
    write_nanogpt,
    write_source,
    write_tokenizer,
)

FORMAT_NAMES = ["book", "blog", "nanogpt", "gpt2", "gpt-scratch"]


def write(source_format: str, folder: Path, tiny_model) -> Path:
    """A small source of that format; returns the folder."""
    if source_format in ("book", "blog"):
        source, config = book_model()
        (write_source if source_format == "book" else write_blog)(folder, source.state_dict(), config)
    elif source_format == "nanogpt":
        source, sizes = fused_model()
        write_nanogpt(folder, source.state_dict(), sizes)
    elif source_format == "gpt2":
        _, weights, config = gpt2_model()
        write_gpt2(folder, weights, config)
    else:
        tiny_model().save_pretrained(folder)
    return folder


def test_formats_are_all_tested():
    assert list(FORMATS) == FORMAT_NAMES


@pytest.mark.parametrize("source_format", FORMAT_NAMES)
def test_every_format_is_recognised_as_folder_and_as_file(tmp_path, tiny_model, source_format):
    folder = write(source_format, tmp_path / "source", tiny_model)
    assert convert(folder, tmp_path / "from-folder") < TOLERANCE
    (file,) = (path for path in folder.iterdir() if path.suffix in (".pth", ".pt", ".safetensors"))
    assert convert(file, tmp_path / "from-file") < TOLERANCE


def rewrap(folder: Path, wrap: Callable[[str], str]) -> None:
    """Gives the weights in a folder the names that a wrapped model's have."""
    (file,) = (path for path in folder.iterdir() if path.suffix in (".pth", ".pt", ".safetensors"))
    content = load_file(file) if file.suffix == ".safetensors" else torch.load(file)
    weights = content["model"] if file.name == "ckpt.pt" else content
    wrapped = {wrap(name): tensor for name, tensor in weights.items()}
    if file.suffix == ".safetensors":
        save_file(wrapped, file)
    else:
        torch.save(content | {"model": wrapped} if file.name == "ckpt.pt" else wrapped, file)


@pytest.mark.parametrize("source_format", FORMAT_NAMES)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_fsdp_wrapped_module.{name}".replace(
            ".0.", ".0._fsdp_wrapped_module._checkpoint_wrapped_module."
        ),
    ],
    ids=["compiled", "compiled and data parallel", "sharded"],
)
def test_names_of_wrappers_are_taken_off_in_every_format(tmp_path, tiny_model, wrap, source_format):
    folder = write(source_format, tmp_path / "source", tiny_model)
    expected = convert(folder, tmp_path / "plain")
    rewrap(folder, wrap)
    assert convert(folder, tmp_path / "output") == expected
    plain, output = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "output"))
    assert plain.keys() == output.keys()
    assert all(torch.equal(output[name], tensor) for name, tensor in plain.items())


def test_two_models_in_one_file_are_refused(tmp_path, capsys):
    source, config = book_model()
    weights = source.state_dict()
    weights |= {f"module.{name}": tensor + 1 for name, tensor in weights.items()}
    message = refusal(capsys, tmp_path, write_source(tmp_path, weights, config))
    assert "model.pth holds 66 tensors, but only 33 names are left without those of wrappers (_orig_mod, " in message


@pytest.mark.parametrize("named", FORMAT_NAMES)
@pytest.mark.parametrize("source_format", FORMAT_NAMES)
def test_named_format_must_be_the_one_that_is_found(tmp_path, capsys, tiny_model, source_format, named):
    folder = write(source_format, tmp_path / "source", tiny_model)
    if named == source_format:
        assert main(["convert", str(folder), str(tmp_path / "output"), "--from", named]) == 0
    else:
        message = refusal(capsys, tmp_path, folder, "--from", named)
        assert f"is not {named}, but looks like {source_format}: found " in message


def test_unknown_model_type_is_refused_with_what_was_seen(tmp_path, capsys):
    _, weights, config = gpt2_model()
    folder = write_gpt2(tmp_path / "source", weights, config | {"model_type": "llama"})
    message = refusal(capsys, tmp_path, folder)
    assert f"{folder} fits no format: found a config.json of model_type 'llama', " in message
    assert f"{len(weights)} tensors (" in message
    assert "the files config.json, model.safetensors" in message
    assert "--from" in message
    assert all(name in message for name in FORMAT_NAMES)


def test_named_format_decides_where_the_model_type_is_somebodys_own(tmp_path, capsys):
    source, weights, config = gpt2_model()
    folder = write_gpt2(tmp_path / "source", weights, config | {"model_type": "my_gpt"})
    convert(folder, tmp_path / "output", source_format="gpt2")
    assert_same_logits(GPTScratchForCausalLM.from_pretrained(tmp_path / "output"), source)
    message = refusal(capsys, tmp_path, folder, "--from", "book", output="second")
    assert "is not book, but looks like gpt2: found a config.json of model_type 'my_gpt', " in message
    folder = write_gpt2(tmp_path / "other", {"a": torch.ones(1)}, {"model_type": "my_gpt"})
    message = refusal(capsys, tmp_path, folder, "--from", "gpt2", output="second")
    assert "is not gpt2: found a config.json of model_type 'my_gpt', 1 tensors (a)" in message


def test_config_without_a_model_type_leaves_it_to_the_tensors(tmp_path):
    source, weights, config = gpt2_model()
    del config["model_type"]
    convert(write_gpt2(tmp_path / "source", weights, config), tmp_path / "output")
    assert_same_logits(GPTScratchForCausalLM.from_pretrained(tmp_path / "output"), source)


def test_tensors_of_no_format_are_refused_with_their_names(tmp_path, capsys):
    path = write_source(tmp_path, {"a": torch.ones(1), "b": torch.ones(1)}, {})
    assert "fits no format: found 2 tensors (a, b), the files model.pth" in refusal(capsys, tmp_path, path)


def test_named_format_decides_where_the_tensors_do_not(tmp_path, capsys):
    source, config = book_model()
    path = write_source(tmp_path, {"a": torch.ones(1), "b": torch.ones(1)}, config)
    assert "2 unknown: a, b; 31 missing: " in refusal(capsys, tmp_path, path, "--from", "book")
    _, weights, _ = gpt2_model()
    path = write_source(tmp_path, source.state_dict() | weights, config)
    assert "fits several formats (book, gpt2): found " in refusal(capsys, tmp_path, path)
    assert "unknown: transformer.wte.weight, " in refusal(capsys, tmp_path, path, "--from", "book")


def test_state_dict_is_nanogpts_or_gpt2s_by_the_shape_of_the_joined_matrix(tmp_path, capsys):
    source, _ = fused_model()
    _, weights, _ = gpt2_model()
    path = write_source(tmp_path, source.state_dict(), None)
    assert "add --n_head N" in refusal(capsys, tmp_path, path)
    path = write_source(tmp_path, weights, None)
    assert "config.json does not exist" in refusal(capsys, tmp_path, path)


def test_formats_that_do_not_exist_are_refused(tmp_path):
    source, config = book_model()
    path = write_source(tmp_path, source.state_dict(), config)
    with pytest.raises(ConversionError, match="format 'gguf' does not exist"):
        convert(path, tmp_path / "output", source_format="gguf")
    with pytest.raises(ConversionError, match="target 'onnx' does not exist"):
        convert(path, tmp_path / "output", target_format="onnx")


def test_state_of_training_does_not_count_as_a_checkpoint(tmp_path):
    source, config = book_model()
    write_source(tmp_path / "source", source.state_dict(), config, "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state_0.pth", "training_args.bin"):
        (tmp_path / "source" / name).write_bytes(b"not to be read")
    assert convert(tmp_path / "source", tmp_path / "output") < TOLERANCE


def test_folder_with_a_config_alone_is_refused(tmp_path, capsys):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text('{"model_type": "gpt2"}')
    assert "holds 0 checkpoints (none)" in refusal(capsys, tmp_path, tmp_path / "source")


def test_tokenizer_beside_a_file_is_not_taken(tmp_path, capsys):
    source, config = book_model()
    path = write_source(tmp_path / "source", source.state_dict(), config)
    write_tokenizer(tmp_path / "source", num_words=20)
    convert(path, tmp_path / "from-file")
    assert not (tmp_path / "from-file" / "tokenizer.json").exists()
    convert(tmp_path / "source", tmp_path / "from-folder")
    assert len(AutoTokenizer.from_pretrained(tmp_path / "from-folder", trust_remote_code=True)) == 23


def test_revision_of_a_local_path_is_refused(tmp_path, capsys):
    source, config = book_model()
    path = write_source(tmp_path, source.state_dict(), config)
    assert "local path, which has no revision" in refusal(capsys, tmp_path, path, "--revision", "main")
    assert "local path" in refusal(capsys, tmp_path, tmp_path / "none.pth", "--revision", "main")


def write_cache(cache: Path, name: str, revisions: dict[str, str]) -> Path:
    """The Hub's cache with a repository that has been downloaded; returns the folder of its files."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    for revision, commit in revisions.items():
        (repository / "refs" / revision).write_text(commit)
    (repository / "snapshots").mkdir()
    return repository / "snapshots"


@pytest.mark.parametrize(
    ("name", "weights_name", "revision"),
    [("somebody/small-gpt2", "model.safetensors", None), ("gpt2", "pytorch_model.bin", "v1")],
)
def test_repository_of_the_hub_is_a_source(tmp_path, monkeypatch, name, weights_name, revision):
    commit = "a" * 40
    snapshots = write_cache(tmp_path / "cache", name, {revision or "main": commit})
    source, weights, config = gpt2_model()
    write_gpt2(snapshots / commit, weights, config, weights_name)
    write_tokenizer(snapshots / commit, num_words=20)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    convert(name, tmp_path / "output", revision=revision)
    assert_same_logits(GPTScratchForCausalLM.from_pretrained(tmp_path / "output"), source)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "output", trust_remote_code=True)) == 23


def test_repository_that_cannot_be_had_is_refused(tmp_path):
    finished = run_program(
        ["convert", "somebody/unknown", str(tmp_path / "output"), "--revision", "v2"],
        HF_HUB_CACHE=str(tmp_path / "cache"),
        HF_HUB_OFFLINE="1",
    )
    assert finished.returncode == 2
    assert finished.stderr.startswith(
        "error: somebody/unknown does not exist here, and the Hub's repository of that name cannot be had at the "
        "revision v2: "
    )
    assert finished.stderr.count("\n") == 1
    assert not (tmp_path / "output").exists()


def test_what_is_missing_in_a_folder_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(sources, "snapshot_download", lambda name, **_: asked.append(name) or str(tmp_path))
    monkeypatch.setattr(opening, "hf_hub_download", lambda name, *_, **__: asked.append(name))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for read in (lambda name: convert(name, "output"), opening.read_sizes, opening.locate):
        with pytest.raises(ConversionError, match=r"^runs/modle does not exist: name a checkpoint"):
            read("runs/modle")
    assert asked == []
    with pytest.raises(ConversionError):  # unless it is said to be there
        opening.locate("runs/modle", revision="main")
    assert set(asked) == {"runs/modle"}


def test_only_files_that_a_conversion_reads_are_asked_for(tmp_path, monkeypatch):
    """Safetensors are preferred; pickles are asked for where there are none, and other people's code never."""
    _, weights, config = gpt2_model()
    asked = []

    def download(name, *, revision, allow_patterns):
        assert (name, revision) == ("somebody/small-gpt2", "v1")
        asked.extend(allow_patterns)
        folder = tmp_path / "pickles"
        if not folder.exists():
            write_gpt2(folder, weights, config, "pytorch_model.bin")
        return str(folder)

    monkeypatch.setattr(sources, "snapshot_download", download)
    assert convert("somebody/small-gpt2", tmp_path / "output", revision="v1") < TOLERANCE
    assert "generation_config.json" in asked
    assert asked.index("model.safetensors") < asked.index("pytorch_model.bin")
    assert not any(pattern.startswith("*") or pattern.endswith(".py") for pattern in asked)

    asked.clear()
    (tmp_path / "pickles" / "pytorch_model.bin").unlink()
    write_gpt2(tmp_path / "pickles", weights, config)
    convert("somebody/small-gpt2", tmp_path / "second", revision="v1")
    assert "pytorch_model.bin" not in asked
