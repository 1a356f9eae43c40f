"""`python -m modeling_gpt_scratch convert SOURCE OUTPUT`: a checkpoint of other code as a gpt-scratch model folder."""

import argparse
import sys

from .conversion import ConversionError, convert


def main(argv: list[str] | None = None) -> int:
    """Runs a command line, without the program's name; returns 0, or 2 after an error that the user can put right."""
    parser = argparse.ArgumentParser(prog="python -m modeling_gpt_scratch", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "convert",
        allow_abbrev=False,
        help="turn a checkpoint into a model folder",
        description='Turn a checkpoint of "Build a Large Language Model (From Scratch)" or of the blog that follows it '
        "into a folder that from_pretrained opens. Its logits are compared with the checkpoint's before it is written.",
    )
    command.add_argument(
        "source", metavar="SOURCE", help="a .pth, .pt or .safetensors file, or a folder that holds exactly one"
    )
    command.add_argument("output", metavar="OUTPUT", help="the folder to write; it must not exist or be empty")
    command.add_argument(
        "--config",
        metavar="model.json",
        help="the checkpoint's configuration in the book's fields (default: model.json beside the checkpoint)",
    )
    command.add_argument(
        "--tokenizer", metavar="FOLDER_OR_NAME", help="the tokenizer to save beside the model (the book uses gpt2)"
    )
    arguments = parser.parse_args(argv)
    try:
        difference = convert(arguments.source, arguments.output, config=arguments.config, tokenizer=arguments.tokenizer)
    except ConversionError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)  # on one line
        return 2
    print(f"Wrote {arguments.output}. Its logits differ from the checkpoint's by at most {difference:.2e}.")
    if arguments.tokenizer is None:
        print("It has no tokenizer: convert again with --tokenizer FOLDER_OR_NAME to add one (the book uses gpt2).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
