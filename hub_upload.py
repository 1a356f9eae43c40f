"""
`python hub_upload.py MODEL OWNER/NAME`: publishes a model folder on the Hub as a model which provably loads, or changes
nothing and says why.

A release is prepared (publishing/contents.py lists what it holds), opened in a fresh process as a stranger would,
sent in one commit, and opened again from there. --space puts a Gradio app beside it, which is tried before.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from modeling_gpt_scratch.output import escape_unprintable
from publishing.client import PublishError
from publishing.commit import Commit, refuse_another_space
from publishing.environments import read_versions
from publishing.publish import numbered, publish
from publishing.release import FIRST_TAG, Release, describe, prepare_release, staging_folder
from publishing.repository import Repository
from publishing.space import NO_COMMIT, gradio_version, publish_space, write_space
from publishing.verification import check_release
from publishing.visit import check_space
from training.errors import InputError

REFERENCE = re.compile(r"(?!.*(\.\.|//|\.lock$))\w([\w./+-]*[\w+-])?")
LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")


def main(argv: list[str] | None = None) -> int:
    """Runs a command line, without the program's name.

    Returns:
        0, 2 for what the user can put right, 1 where the Hub has failed or holds something else than was sent, 130
        after Ctrl-C.
    """
    escape_unprintable()
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except (InputError, OSError) as error:
        for problem in str(error).splitlines():
            print(f"error: {problem}", file=sys.stderr)
        return 2
    except PublishError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted: the branch holds the release or what it held before; run the same command again",
            file=sys.stderr,
        )
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python hub_upload.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model folder, such as runs/demo/model")
    parser.add_argument("repo_id", metavar="OWNER/NAME", nargs="?", help="the repository; made where there is none")
    parser.add_argument("--dry-run", action="store_true", help="prepare, check and list; nothing is sent")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", default="main", help="the branch (default: %(default)s)")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    parser.add_argument(
        "--tag",
        help="name the commit, once it is verified; the card's snippets pin this name (default: the first of v1, v2, "
        "... that is free on the Hub, or the last one there where it names this very release; v1 in a dry run; none "
        "for a pull request)",
    )
    parser.add_argument(
        "--native", action="store_true", help="publish as the library's own GPT2LMHeadModel, without remote code"
    )
    parser.add_argument(
        "--check-with",
        metavar="VERSIONS",
        default="",
        help="also open the release with these versions of Transformers before it is sent, such as 5.15.0,newest; each "
        "is installed into an environment that is thrown away, which takes minutes; the card lists them",
    )
    parser.add_argument("--base-model", metavar="OWNER/NAME", help="the model that this one was tuned from")
    parser.add_argument(
        "--license",
        help="of the weights, as the Hub writes it (default: apache-2.0 for what was trained here from scratch, else "
        "unknown)",
    )
    parser.add_argument(
        "--language",
        action="append",
        default=[],
        metavar="CODE",
        help="of the text: an ISO 639 code such as en, or code; may be repeated (default: code for the standard "
        "library, else und, undetermined)",
    )
    parser.add_argument(
        "--evaluation",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="results of lm-eval for the card (results_*.json); may be repeated",
    )
    parser.add_argument(
        "--space",
        metavar="OWNER/NAME",
        nargs="?",
        const="",
        help="also publish a Gradio Space that writes with this commit of the model (default: of the model's name)",
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.repo_id is None and options.dry_run:
        options.repo_id = "owner/model"
    if options.space == "":
        options.space = options.repo_id
    _check_options(options)
    others = read_versions(options.check_with) if options.check_with else ()
    repository = None
    if not options.dry_run:
        repository = Repository(
            options.repo_id, private=options.private, revision=options.revision, create_pr=options.create_pr
        )
        repository.require_access()
    space = None if options.dry_run or not options.space else _space(options, repository)
    print(f"preparing {options.model}, and opening it in a process without this project", flush=True)
    with staging_folder(options.model) as folder:
        release = prepare_release(
            options.model,
            folder,
            options.repo_id,
            native=options.native,
            revision=None if options.create_pr else options.tag or FIRST_TAG,
            base_model=options.base_model,
            license=options.license,
            languages=tuple(options.language),
            evaluations=tuple(options.evaluation),
        )
        opened = check_release(release, repository.client.token if repository else get_token(), others)
        release = describe(release, opened_with=tuple(found["versions"] for found in opened))
        if repository is not None and not (options.tag or options.create_pr):
            release = numbered(release, repository)
        _show(release, opened, options)
        if options.space:
            _try_space(release, options)
        if repository is not None:
            commit = publish(release, repository)
            _report(release, repository, commit)
            if space is not None:
                _publish_space(release, repository, commit, space)
    return 0


def _space(options: argparse.Namespace, repository: Repository) -> Repository:
    """The Space to publish to, which is as private as the model.

    Raises:
        InputError: this token may not publish there, or it is another's Space.
    """
    space = Repository(options.space, kind="space", private=options.private or repository.is_private())
    refuse_another_space(space)
    return space


def _try_space(release: Release, options: argparse.Namespace) -> None:
    """Starts the Space before anything is sent, and says what it holds."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_space(Path(folder), release, NO_COMMIT)
        print(f"the Space, started here, answers {check_space(files, release, NO_COMMIT)!r}")
        print(f"{'would be' if options.dry_run else 'to be'} published as the Space {options.space}:")
        for path, file in files.items():
            print(f"  {file.stat().st_size:>13,} bytes  {path}")


def _publish_space(release: Release, repository: Repository, commit: Commit, space: Repository) -> None:
    space.private = repository.is_private()
    with tempfile.TemporaryDirectory() as folder:
        made = publish_space(write_space(Path(folder), release, commit.id), space)
    state = "committed, so the Hub builds it now" if made.is_new else "unchanged"
    print(f"Space verified: {made.id} ({state})")
    if space.private:
        print("a private model's Space needs a secret HF_TOKEN that can read the model: add it on its settings page")
    print(space.url)


def _show(release: Release, opened: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Says what a release is and holds, before anything is sent."""
    print(f"it opens with Transformers {', '.join(found['versions']['transformers'] for found in opened)}: ", end="")
    print(f"{release.facts.parameters:,} parameters; it answers {opened[0]['answer']!r}")
    name = f" as {release.facts.revision}" if release.facts.revision else ""
    print(f"would be published{name}:" if options.dry_run else f"publishing to {options.repo_id}{name}:")
    for path, file in release.files.items():
        print(f"  {file.stat().st_size:>13,} bytes  {path}")
    if release.left_at_home:
        print(f"stays here: {', '.join(release.left_at_home)}")


def _report(release: Release, repository: Repository, commit: Commit) -> None:
    """Says what others have of it now."""
    if release.facts.revision:
        print(f"tag: {release.facts.revision}")
    remote = "" if release.facts.native else ", trust_remote_code=True"
    print(f"verified: {len(release.files)} files and the logits are those of the model folder")
    print(f'{release.facts.auto_class}.from_pretrained("{repository.repo_id}", revision="{commit.id}"{remote})')
    print(commit.pull_request or repository.url)


def _check_options(options: argparse.Namespace) -> None:
    if options.repo_id is None:
        raise InputError("OWNER/NAME is missing: where shall the model go? (--dry-run needs none)")
    for repo_id in filter(None, (options.repo_id, options.base_model, options.space)):
        if repo_id.count("/") != 1:
            raise InputError(f"{repo_id} is no repository's name: write OWNER/NAME")
        try:
            validate_repo_id(repo_id)
        except HFValidationError as error:
            raise InputError(f"{repo_id} is no repository's name: {error}") from None
    for option, name in (("--tag", options.tag), ("--revision", options.revision)):
        if name is not None and not REFERENCE.fullmatch(name):
            raise InputError(f"{option} {name} is no name that git allows: use letters, digits, dots and dashes")
    if options.tag == options.revision:
        raise InputError(f"--tag {options.tag} is the branch's name, which only one of the two can have: name another")
    if options.license is not None and not LICENSE.fullmatch(options.license):
        raise InputError(f"--license {options.license} is no licence's name on the Hub: such as mit, apache-2.0, other")
    if options.space:
        gradio_version()
    if options.create_pr and options.space:
        raise InputError("--space shows a commit of a branch, and --create-pr makes none: publish it when it is merged")
    if options.create_pr and options.tag:
        raise InputError("--tag names a commit of a branch, and --create-pr makes none: tag it when it is merged")
    if options.create_pr and options.private:
        raise InputError("--private is for a new repository, and --create-pr needs one that exists: leave one out")
    if options.create_pr and options.revision != "main":
        raise InputError(f"--create-pr goes to main, not to {options.revision}: leave one of the two out")


if __name__ == "__main__":
    sys.exit(main())
