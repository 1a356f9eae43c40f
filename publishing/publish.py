"""From a release to a verified commit with a tag: what is sent is opened from there before anybody is told of it."""

import time
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError

from training.errors import InputError
from training.files import sha256_of

from .client import PublishError
from .commit import Commit, commit_files
from .release import Release, describe
from .repository import Repository
from .verification import open_as_stranger, problems_found

VERIFICATION_ATTEMPTS = 3


def numbered(release: Release, repository: Repository) -> Release:
    """The release under the newest of the tags v1, v2, ... where that names the very same, else under the next one."""
    newest = repository.newest_version()
    if newest and (tagged := repository.tag(f"v{newest}")):
        release = describe(release, revision=f"v{newest}")
        if not repository.differing_files(release.files, tagged):
            return release
    return describe(release, revision=f"v{newest + 1}")


def publish(release: Release, repository: Repository) -> Commit:
    """Sends a checked release in one commit, opens it from the Hub in a fresh process, and tags it as its card says.

    Raises:
        InputError: the token may not, the tag is a branch or names something else, or somebody else changed the
            branch meanwhile.
        PublishError: the Hub has failed, or holds something else than was sent.
    """
    if release.facts.repo_id != repository.repo_id:
        raise InputError("the release's card is of another repository: prepare it for this one")
    tag = release.facts.revision
    repository.create()
    if tag and repository.is_branch(tag):
        raise InputError(
            f"{tag} is a branch of {repository.repo_id}, so no tag can have that name: choose another --tag"
        )
    tagged = repository.tag(tag) if tag else None
    if tagged and repository.differing_files(release.files, tagged):
        raise InputError(f"the tag {tag} exists and names another release ({tagged}): choose a new name")
    commit = commit_files(repository, release.files)
    for path in commit.deleted:
        print(f"deleted: {path}")
    state = "committed" if commit.is_new else "nothing to change: already published"
    print(f"{state}: {commit.id}; now opening it from there")
    verify(release, repository, commit)
    if tag and not tagged:
        repository.set_tag(tag, commit.id)
    return commit


def verify(release: Release, repository: Repository, commit: Commit) -> None:
    """Compares what the Hub holds, and what it serves, with what was sent.

    Raises:
        PublishError: it is something else, or does not open.
    """
    problems = [f"{path} is not what was sent" for path in repository.differing_files(release.files, commit.id)]
    if not problems:
        problems = problems_found(release, _open_from_hub(release, repository, commit))
    if problems:
        raise PublishError(
            f"commit {commit.id} of {repository.repo_id} is there, but does not verify: {'; '.join(problems)}. Do not "
            "use it; the same command sends what differs, and verifies again"
        )


def _open_from_hub(release: Release, repository: Repository, commit: Commit) -> dict[str, Any]:
    """What a fresh process finds that opens a commit from there; opened again where only the way may have failed.

    Raises:
        PublishError: it has failed each time.
    """
    sha256 = {path: sha256_of(file) for path, file in release.files.items()}
    endpoint, token = repository.client.api.endpoint, repository.client.token
    is_private = repository.is_private()

    def download(cache: Path) -> None:
        # The process that runs the model's code has no token, so it could not see a private repository.
        snapshot_download(repository.repo_id, revision=commit.id, cache_dir=cache, endpoint=endpoint, token=token)

    for attempt in range(VERIFICATION_ATTEMPTS):
        if attempt:
            time.sleep(2 ** (attempt - 1))
        try:
            return open_as_stranger(
                release,
                repository.repo_id,
                revision=commit.id,
                sha256=sha256,
                environment={"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "1" if is_private else "0"},
                fill_cache=download if is_private else None,
            )
        except (InputError, HTTPError, OSError, RuntimeError) as error:  # perhaps only the way to the Hub
            reason = " ".join(str(error).split()).replace(token, "<token>")
    raise PublishError(
        f"commit {commit.id} of {repository.repo_id} is there, but could not be opened from there: {reason}; the same "
        "command tries again"
    )
