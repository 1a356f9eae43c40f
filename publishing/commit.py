"""
One commit to the Hub, or none: it is planned from what is there, attempted, and after an unclear failure the repository
is asked what it holds.
"""

import json
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from modeling_gpt_scratch import GPTScratchConfig
from training.errors import InputError

from .client import AS_BEFORE, UNKNOWN
from .contents import is_stale
from .repository import Repository

COMMIT_TITLE = "Publish with gpt-scratch"
# What `from_pretrained` runs or loads although it belongs to no release.
INTRUDERS = re.compile(r".*\.py|adapter_config\.json|adapter_model\..*")
# What the Hub itself puts into a new Space.
UNTOUCHED_SPACE = {".gitattributes", "README.md"}


@dataclass(frozen=True)
class Commit:
    """What a repository holds after publishing.

    Args:
        id: the commit's hash.
        is_new: false where the repository held the release already.
        pull_request: the page of the pull request, where one was asked for.
        deleted: stale files that it has taken away.
    """

    id: str
    is_new: bool = True
    pull_request: str | None = None
    deleted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a commit is to do.

    Args:
        files: path in the repository -> file of the release.
        parent: the newest commit, on top of which alone this one goes.
        changed: paths to upload.
        deleted: paths of stale files to take away.
    """

    files: dict[str, Path]
    parent: str
    changed: tuple[str, ...]
    deleted: tuple[str, ...]


def commit_files(repository: Repository, files: dict[str, Path]) -> Commit:
    """Makes the branch, or a pull request on it, hold exactly these files, in one commit.

    What is there and is no part of any release stays.

    Raises:
        InputError: the repository holds what does not go with the release, somebody else has changed the branch
            meanwhile, or the token may not write.
        PublishError: the Hub could not be reached, or refused.
    """
    plan = _plan(repository, files)
    commit = _already_made(repository, plan) or _make(repository, plan)
    repository.client.standing = f"commit {commit.id} is there, and the same command goes on"
    return commit


def _plan(repository: Repository, files: dict[str, Path]) -> Plan:
    """Compares the branch, which is made where there is none, with the release.

    Raises:
        InputError: something there stands in the way.
    """
    repository.create_branch()
    parent = repository.head(repository.revision)
    there = repository.tree(parent)
    changed, deleted = repository.differences(files, there)
    if repository.kind == "space":
        _refuse_another_space(repository, parent, there)
    else:
        _refuse_intruders(repository, files, there)
        if "config.json" in there:
            _refuse_another_model(repository, parent)
    return Plan(files, parent, tuple(changed), tuple(deleted))


def _already_made(repository: Repository, plan: Plan) -> Commit | None:
    """What holds the release before anything is sent."""
    if not (plan.changed or plan.deleted):
        return Commit(plan.parent, is_new=False)
    found = _find_request(repository, plan.files) if repository.create_pr else None
    return replace(found, is_new=False) if found else None


def _make(repository: Repository, plan: Plan) -> Commit:
    # The same objects for each attempt: they remember what has been uploaded.
    operations = [
        *(CommitOperationAdd(path, str(plan.files[path])) for path in plan.changed),
        *(CommitOperationDelete(path) for path in plan.deleted),
    ]
    return repository.client.call(
        "uploading", _attempt, repository, plan, operations, made=lambda: _find_out(repository, plan)
    )


def _attempt(
    repository: Repository, plan: Plan, operations: list[CommitOperationAdd | CommitOperationDelete]
) -> Commit:
    info = repository.client.api.create_commit(
        operations=operations,
        **repository.place,
        commit_message=COMMIT_TITLE,
        revision=repository.revision,
        create_pr=repository.create_pr,
        parent_commit=plan.parent,
    )
    return Commit(info.oid, pull_request=info.pr_url, deleted=plan.deleted)


def _find_out(repository: Repository, plan: Plan) -> Commit | None:
    """The commit of an attempt that seemed to fail; `None` where it has made none.

    Raises:
        InputError: the branch holds somebody else's commit.
    """
    repository.client.standing = UNKNOWN
    head = plan.parent if repository.create_pr else repository.head(repository.revision)
    if head == plan.parent:
        found = _find_request(repository, plan.files) if repository.create_pr else None
        repository.client.standing = AS_BEFORE
        return found
    if repository.differing_files(plan.files, head):
        raise InputError(
            f"{repository.title} was changed by somebody else meanwhile (its {repository.revision} is now {head}): "
            "look at that, and run the same command again to publish on top of it"
        )
    return Commit(head, deleted=plan.deleted)


def _find_request(repository: Repository, files: dict[str, Path]) -> Commit | None:
    """This user's open pull request that holds exactly these files."""

    def read_requests() -> list[Any]:
        found = repository.client.api.get_repo_discussions(
            **repository.place, author=repository.user, discussion_type="pull_request", discussion_status="open"
        )
        return [request for request in found if request.title == COMMIT_TITLE]

    for request in repository.client.call("reading the pull requests", read_requests):
        head = repository.head(request.git_reference)
        if not repository.differing_files(files, head):
            return Commit(head, pull_request=request.url)
    return None


def _refuse_intruders(repository: Repository, files: dict[str, Path], there: dict[str, Any]) -> None:
    """Looks for what would be run or loaded together with the model.

    Args:
        there: the commit's tree.

    Raises:
        InputError: there is some.
    """
    intruders = [path for path in there if path not in files and INTRUDERS.fullmatch(path) and not is_stale(path)]
    if intruders:
        raise InputError(
            f"{repository.repo_id} also holds {', '.join(intruders)}, which would be run or loaded with the model: "
            "delete that there first, or choose another repository"
        )


def _refuse_another_model(repository: Repository, commit: str) -> None:
    """Looks at whose config.json a commit holds: that of an earlier release, or of a `Trainer` that pushed by itself.

    Raises:
        InputError: it is another model's.
    """
    client, repo_id = repository.client, repository.repo_id
    if _is_ours(repository, commit):
        return
    with tempfile.TemporaryDirectory() as folder:
        download, where = client.api.hf_hub_download, {"revision": commit, "local_dir": folder}
        file = client.call("reading config.json there", download, repo_id, "config.json", **where)
        try:
            model_type = json.loads(Path(file).read_text(encoding="utf-8")).get("model_type")
        except (ValueError, AttributeError):
            model_type = None
    if model_type != GPTScratchConfig.model_type:
        raise InputError(
            f"{repo_id} holds another model (model_type {model_type}): choose another repository, or delete its files "
            "there first"
        )


def refuse_another_space(repository: Repository) -> None:
    """Looks whose Space has this name, if any has; changes nothing.

    Raises:
        InputError: it is not one of this project's.
    """
    if repository.require_access():
        head = repository.head(repository.revision)
        _refuse_another_space(repository, head, repository.tree(head))


def _refuse_another_space(repository: Repository, commit: str, there: dict[str, Any]) -> None:
    others = sorted(there.keys() - UNTOUCHED_SPACE)
    if others and not _is_ours(repository, commit):
        raise InputError(
            f"{repository.title} holds something else ({', '.join(others)}): choose another name (--space OWNER/NAME), "
            "or delete that Space first"
        )


def _is_ours(repository: Repository, commit: str) -> bool:
    """Whether this command has ever published there."""
    client = repository.client
    history = client.call("reading the commits", client.api.list_repo_commits, **repository.place, revision=commit)
    return any(made.title.startswith(COMMIT_TITLE) for made in history)
