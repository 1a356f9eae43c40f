"""`python -m modeling_gpt_scratch convert SOURCE OUTPUT`: a checkpoint as our model folder, as GPT-2 or as GGUF."""

import argparse
import sys

from .conversion import ACTIVATIONS, FORMATS, GGUF_DTYPES, TARGETS, ConversionError, convert
from .output import escape_unprintable


def main(argv: list[str] | None = None) -> int:
    """Runs a command line, without the program's name; returns 0, or 2 after an error that the user can put right."""
    parser = argparse.ArgumentParser(prog="python -m modeling_gpt_scratch", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "convert",
        allow_abbrev=False,
        help="turn a checkpoint into a model folder",
        description='Turn a checkpoint of "Build a Large Language Model (From Scratch)", of the blog that follows it, '
        "of nanoGPT, of GPT-2 or of this package into a folder that from_pretrained opens, or a file that llama.cpp "
        "does. The result's logits are compared with the checkpoint's before it is written.",
    )
    _add_source_and_target(command)
    _add_what_the_source_does_not_say(command)
    arguments = vars(parser.parse_args(argv))
    del arguments["command"]
    try:
        convert(**arguments, report=print)
    except ConversionError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)  # on one line
        return 2
    return 0


def _add_source_and_target(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="a .pth, .pt, .bin, .ckpt or .safetensors file, a folder that holds one checkpoint, or a Hub name "
        "(owner/name)",
    )
    command.add_argument("output", metavar="OUTPUT", help="the folder to write; it must not exist or be empty")
    command.add_argument(
        "--from",
        dest="source_format",
        choices=FORMATS,
        help="the source's format, where it is not recognised: "
        + "; ".join(f"{name}: {kind.description}" for name, kind in FORMATS.items()),
    )
    command.add_argument(
        "--to",
        dest="target_format",
        choices=TARGETS,
        default=TARGETS[0],
        help="the format to write; gpt2 is the Transformers library's own GPT-2, which opens without remote code and "
        "which engines know; gguf is the file of llama.cpp and Ollama (default: %(default)s)",
    )
    command.add_argument(
        "--dtype",
        choices=GGUF_DTYPES,
        help="gguf: the type of the matrices; f16 and q8_0 make the file smaller and round "
        f"(default: {next(iter(GGUF_DTYPES))})",
    )
    command.add_argument(
        "--tokenizer",
        metavar="FOLDER_OR_NAME",
        help="the tokenizer to save beside the model: gpt2 for the book, nanoGPT's meta.pkl (default: the source's)",
    )
    command.add_argument(
        "--revision", metavar="REV", help="Hub names: the branch, tag or commit of SOURCE (default: its main branch)"
    )


def _add_what_the_source_does_not_say(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config",
        metavar="model.json",
        help="book: the checkpoint's configuration in the book's fields (default: model.json beside the checkpoint); "
        'nanogpt: the sizes of a checkpoint that does not say them, such as {"n_head": 12}',
    )
    command.add_argument(
        "--n_head",
        type=int,
        metavar="N",
        help="nanogpt: the number of attention heads, where the checkpoint holds tensors alone (all else is in their "
        "shapes)",
    )
    command.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        help="nanogpt: the function that the model was trained with, which its checkpoint does not say: gelu since "
        "June 2023, gelu_pytorch_tanh before and in build-nanogpt and minGPT (default: the likely one, which is told)",
    )
    command.add_argument(
        "--labels",
        metavar="A,B",
        help="book: the names of a classifier's classes, in the order of their numbers (default: LABEL_0,LABEL_1)",
    )


if __name__ == "__main__":
    escape_unprintable()
    sys.exit(main())
