"""
One commit to the Hub, or none: access is checked first, what fails for a moment is tried again, and after an unclear
failure the repository is asked what it holds.
"""

import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import sha

from training.errors import InputError

from .contents import is_stale

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 1.0  # doubles from attempt to attempt
LONGEST_WAIT_SECONDS = 330.0  # the Hub counts requests in windows of five minutes
COMMIT_TITLE = "Publish with gpt-scratch"
# Where things stand when something fails.
AS_BEFORE = "the branch is as it was, and the same command goes on"
UNKNOWN = "whether the commit was made is not known: the same command finds out and goes on"
OWN_MODEL_TYPE = "gpt_scratch"
TOKEN = re.compile(r"[!-~]+")
VERSION = re.compile(r"v([1-9][0-9]*)")
# What `from_pretrained` runs or loads although it belongs to no release.
INTRUDERS = re.compile(r".*\.py|adapter_config\.json|adapter_model\..*")
Result = TypeVar("Result")


class PublishError(Exception):
    """The Hub or the way to it has failed; the message says what is there now and what to do."""


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


class Repository:
    """A model repository of the Hub, and the place in it to publish to.

    Args:
        repo_id: `owner/name`.
        private: whether a new repository is made private.
        revision: the branch; made where there is none.
        create_pr: open a pull request on it instead.
        endpoint: of the Hub; `None` means `HF_ENDPOINT`, or huggingface.co.
        token: with write access; `None` means `HF_TOKEN`, or that of the library's own login.
        say: takes lines for a person.

    Raises:
        InputError: there is no token, or it or the endpoint cannot be one.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        private: bool = False,
        revision: str = "main",
        create_pr: bool = False,
        endpoint: str | None = None,
        token: str | None = None,
        say: Callable[[str], object] = print,
    ):
        self.repo_id = repo_id
        self.private = private
        self.revision = revision
        self.create_pr = create_pr
        self.say = say
        self.user = ""
        self.standing = AS_BEFORE
        self.token = (token or get_token() or "").strip()
        if not self.token:
            raise InputError("there is no token: run `hf auth login`, or set HF_TOKEN to one with write access")
        if not TOKEN.fullmatch(self.token):
            raise InputError("the token has characters that no token has: log in again, or set HF_TOKEN anew")
        endpoint = (endpoint or os.environ.get("HF_ENDPOINT", "")).rstrip("/") or None
        if endpoint and not endpoint.startswith(("https://", "http://")):
            raise InputError(f"HF_ENDPOINT is {endpoint}, but must begin with https://")
        self.api = HfApi(endpoint=endpoint, token=self.token, library_name="gpt-scratch")

    def require_access(self) -> bool:
        """Makes sure that this token may publish here; changes nothing. Returns whether the repository exists.

        Raises:
            InputError: it may not, or the repository is public and should be private.
        """
        if not self.user:
            who = self._try("asking who the token belongs to", self.api.whoami)
            _refuse_without_right(who, self.repo_id, self.create_pr)
            self.user = who["name"]
        info = self._info()
        if info is None and self.create_pr:
            raise InputError(
                f"{self.repo_id} does not exist, or you cannot see it: there is nothing to propose this to"
            )
        if info is not None and self.private and not info.private:
            raise InputError(
                f"{self.repo_id} is public, and publishing does not change that: make it private on its settings "
                "page, or choose another name"
            )
        return info is not None

    def create(self) -> None:
        """Makes the repository where there is none."""
        if self.require_access():
            return
        # exist_ok: an attempt may have failed after the work was done.
        create, private = self.api.create_repo, self.private or None  # None: as the organization's default says
        self._try("creating the repository", create, self.repo_id, private=private, exist_ok=True)
        if not self.require_access():
            raise PublishError(f"{self.repo_id} was created, but cannot be seen: run the same command again")

    def head(self, revision: str) -> str:
        """The newest commit of a branch, tag or pull request."""
        info = self._info(revision)
        if info is None:
            raise PublishError(f"{self.repo_id} has no {revision}, or not any more")
        return info.sha

    def tag(self, name: str) -> str | None:
        """The commit that a tag names, or `None`."""
        # An annotated tag's own object is not a commit, so the commit is asked for by name.
        return self.head(name) if name in self._names("tags") else None

    def is_branch(self, name: str) -> bool:
        """Whether a branch has this name, or will have: a tag of the same name would lock it."""
        return name == self.revision or name in self._names("branches")

    def newest_version(self) -> int:
        """The largest number of a tag or branch v1, v2, ..., this one's branch among them; 0 where there is none."""
        found = [VERSION.fullmatch(name) for name in (self.revision, *self._names("tags"), *self._names("branches"))]
        return max((int(version.group(1)) for version in found if version), default=0)

    def set_tag(self, name: str, commit: str) -> None:
        """Names a commit.

        Raises:
            InputError: the tag names another one.
        """
        # exist_ok: an attempt may have failed after the work was done.
        tag = self.api.create_tag
        self._try("creating the tag", tag, self.repo_id, tag=name, revision=commit, exist_ok=True)
        named = self.tag(name)
        if named != commit:
            raise InputError(f"the tag {name} names {named}, not this commit ({commit}): choose a new name")

    def commit(self, files: dict[str, Path]) -> Commit:
        """Makes the branch, or a pull request on it, hold exactly these files, in one commit.

        What is there and is no part of any release stays.

        Raises:
            InputError: somebody else has changed the branch meanwhile, or the token may not write.
            PublishError: the Hub could not be reached, or refused.
        """
        commit = self._commit(files)
        self.standing = f"commit {commit.id} is there, and the same command goes on"
        return commit

    def _commit(self, files: dict[str, Path]) -> Commit:
        refs = self._try("reading the branches", self.api.list_repo_refs, self.repo_id)
        if any(ref.name == self.revision for ref in refs.tags):
            raise InputError(f"{self.revision} is a tag of {self.repo_id}, not a branch: name another --revision")
        if not any(ref.name == self.revision for ref in refs.branches):
            self._try("creating the branch", self.api.create_branch, self.repo_id, branch=self.revision, exist_ok=True)
        parent = self.head(self.revision)
        there = self._tree(parent)
        changed, deleted = _differences(files, there)
        self._refuse_other_contents(files, there, parent)
        if not (changed or deleted):
            return Commit(parent, is_new=False)
        if self.create_pr and (found := self._find_request(files)):
            return replace(found, is_new=False)
        # The same objects for each attempt: they remember what has been uploaded.
        operations = [
            *(CommitOperationAdd(path, str(files[path])) for path in changed),
            *(CommitOperationDelete(path) for path in deleted),
        ]

        def made() -> Commit | None:
            """The commit of an attempt that seemed to fail."""
            self.standing = UNKNOWN
            head = parent if self.create_pr else self.head(self.revision)
            if head == parent:
                found = self._find_request(files) if self.create_pr else None
                self.standing = AS_BEFORE
                return found
            if self.differing_files(files, head):
                raise InputError(
                    f"{self.repo_id} was changed by somebody else meanwhile (its {self.revision} is now {head}): look "
                    "at that, and run the same command again to publish on top of it"
                )
            return Commit(head, deleted=tuple(deleted))

        def attempt() -> Commit:
            info = self.api.create_commit(
                self.repo_id,
                operations,
                commit_message=COMMIT_TITLE,
                revision=self.revision,
                create_pr=self.create_pr,
                parent_commit=parent,
            )
            return Commit(info.oid, pull_request=info.pr_url, deleted=tuple(deleted))

        return self._try("uploading", attempt, made=made)

    def is_private(self) -> bool:
        info = self._info()
        return info is not None and info.private

    def _refuse_other_contents(self, files: dict[str, Path], there: dict[str, Any], commit: str) -> None:
        """Looks at what a branch holds beside an earlier release.

        Args:
            there: the commit's tree.

        Raises:
            InputError: another model, or something that would be run or loaded together with this one.
        """
        intruders = [path for path in there if path not in files and INTRUDERS.fullmatch(path) and not is_stale(path)]
        if intruders:
            raise InputError(
                f"{self.repo_id} also holds {', '.join(intruders)}, which would be run or loaded with the model: "
                "delete that there first, or choose another repository"
            )
        if "config.json" not in there:
            return
        history = self._try("reading the commits", self.api.list_repo_commits, self.repo_id, revision=commit)
        if any(made.title.startswith(COMMIT_TITLE) for made in history):
            return
        with tempfile.TemporaryDirectory() as folder:
            download, where = self.api.hf_hub_download, {"revision": commit, "local_dir": folder}
            file = self._try("reading config.json there", download, self.repo_id, "config.json", **where)
            try:
                model_type = json.loads(Path(file).read_text(encoding="utf-8")).get("model_type")
            except (ValueError, AttributeError):
                model_type = None
        if model_type != OWN_MODEL_TYPE:
            raise InputError(
                f"{self.repo_id} holds another model (model_type {model_type}): choose another repository, or delete "
                "its files there first"
            )

    def differing_files(self, files: dict[str, Path], commit: str) -> list[str]:
        """Paths that a commit does not hold as they are here, and stale ones that it still holds."""
        changed, deleted = _differences(files, self._tree(commit))
        return [*changed, *deleted]

    def _tree(self, commit: str) -> dict[str, Any]:
        """Path -> what the Hub says of the file."""

        def read_tree() -> dict[str, Any]:
            entries = self.api.list_repo_tree(self.repo_id, recursive=True, revision=commit)
            return {entry.path: entry for entry in entries if hasattr(entry, "blob_id")}

        return self._try("reading the repository's files", read_tree)

    def _find_request(self, files: dict[str, Path]) -> Commit | None:
        """This user's open pull request that holds exactly these files."""

        def read_requests() -> list[Any]:
            found = self.api.get_repo_discussions(
                self.repo_id, author=self.user, discussion_type="pull_request", discussion_status="open"
            )
            return [request for request in found if request.title == COMMIT_TITLE]

        for request in self._try("reading the pull requests", read_requests):
            head = self.head(request.git_reference)
            if not self.differing_files(files, head):
                return Commit(head, pull_request=request.url)
        return None

    def _names(self, kind: Literal["tags", "branches"]) -> list[str]:
        """The names of the tags or branches; none where there is no repository."""

        def read_names() -> list[str]:
            try:
                return [ref.name for ref in getattr(self.api.list_repo_refs(self.repo_id), kind)]
            except RepositoryNotFoundError:
                return []

        return self._try(f"reading the {kind}", read_names)

    def _info(self, revision: str | None = None) -> Any:
        def read_info() -> Any:
            try:
                return self.api.model_info(self.repo_id, revision=revision)
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return None

        return self._try("looking for the repository", read_info)

    def _try(
        self,
        what: str,
        action: Callable[..., Result],
        *arguments: Any,
        made: Callable[[], Result | None] = lambda: None,
        **options: Any,
    ) -> Result:
        """Calls the client, again and again while what fails may pass by itself.

        Args:
            what: the action in words.
            made: asked after each failure whether the work was done all the same.
        """
        wait = FIRST_WAIT_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return action(*arguments, **options)
            except OfflineModeIsEnabled:
                raise InputError("HF_HUB_OFFLINE is set, so nothing can be published: unset it") from None
            except (HTTPError, OSError, RuntimeError, ValueError) as error:
                status = _status_of(error)
                if status in (401, 403):
                    raise InputError(f"{what}: {_explain_refusal(status, self.repo_id)}") from None
                if isinstance(error, ValueError) and not _may_pass(error) and status != 412:
                    raise InputError(f"{what}: the Hub refuses it: {self._describe_error(error)}") from None
                if not (status == 412 or _may_pass(error)):
                    raise PublishError(f"{what} failed: {self._describe_error(error)}; {self.standing}") from None
                done = made()
                if done is not None:
                    return done
                if attempt == ATTEMPTS or status == 412:
                    raise PublishError(
                        f"{what} failed {attempt} times, at last with: {self._describe_error(error)}; {self.standing}"
                    ) from None
                pause = max(wait, _retry_after(error))
                if pause > LONGEST_WAIT_SECONDS:
                    raise PublishError(
                        f"{what} failed: the Hub asks to wait for {pause:.0f} seconds; {self.standing}"
                    ) from None
                self.say(f"{what} failed ({self._describe_error(error)}); once more in {pause:g} s")
                time.sleep(pause)
                wait *= 2
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _describe_error(self, error: BaseException) -> str:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            return f"{error.response.status_code} {error.server_message or error.response.reason_phrase}".strip()
        # Of a failed upload the client says no more than that; what it was raised from knows why.
        while isinstance(error, RuntimeError) and error.__cause__ is not None:
            error = error.__cause__
        return " ".join(f"{type(error).__name__}: {error}".split()).replace(self.token, "<token>")


def _refuse_without_right(who: dict[str, Any], repo_id: str, create_pr: bool) -> None:
    """Reads whoami's answer, because `create_repo(exist_ok=True)` succeeds without any right on what exists.

    Raises:
        InputError: the token cannot write there.
    """
    owner = repo_id.split("/")[0]
    namespaces = {who["name"].lower(), *(organization["name"].lower() for organization in who.get("orgs", []))}
    access = who.get("auth", {}).get("accessToken", {})
    if access.get("role") == "read":
        raise InputError(
            "the token can only read: make one with write access at https://huggingface.co/settings/tokens"
        )
    if create_pr:
        return
    # What somebody may do in an organization is more than whoami tells; the Hub says it before anything is changed.
    if owner.lower() not in namespaces:
        raise InputError(
            f"the token belongs to {who['name']}, who cannot write to {owner}: publish under a name of yours, or as a "
            "pull request (--create-pr)"
        )
    if access.get("role") == "fineGrained":
        scopes = access.get("fineGrained", {}).get("scoped", [])
        rights = {
            right
            for scope in scopes
            if scope.get("entity", {}).get("name") in (owner, repo_id)
            for right in scope.get("permissions", [])
        }
        if not any(right.startswith("repo.") and not right.endswith("read") for right in rights):
            raise InputError(
                f"the token has no write access to repositories of {owner}: add that to it, or use another"
            )


def _differences(files: dict[str, Path], there: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Paths to upload and paths to delete, so that a tree becomes the release."""
    changed = [path for path, file in files.items() if path not in there or not _is_same(file, there[path])]
    return changed, [path for path in there if path not in files and is_stale(path)]


def _is_same(file: Path, entry: Any) -> bool:
    """Compares a file here with one there, by the hash that the Hub keeps of it."""
    if file.stat().st_size != entry.size:
        return False
    if entry.lfs is not None:
        with file.open("rb") as stream:
            return sha.sha_fileobj(stream).hex() == entry.lfs.sha256
    return sha.git_hash(file.read_bytes()) == entry.blob_id


def _status_of(error: BaseException) -> int | None:
    """The HTTP status of an error, or of the one that it was raised from."""
    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code
    return _status_of(error.__cause__) if error.__cause__ is not None else None


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later: too busy, too many, too slow, or cut off."""
    status = _status_of(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    # A failed upload over LFS is a RuntimeError. One over Xet is a ConnectionError after several minutes of attempts of
    # its own, so it is final.
    return isinstance(error, HTTPError | TimeoutError | RuntimeError)


def _retry_after(error: BaseException) -> float:
    """Seconds that the Hub asks to wait: `Retry-After: 30`, or `RateLimit: "api";r=0;t=30`."""
    headers = error.response.headers if getattr(error, "response", None) is not None else {}
    text = headers.get("Retry-After", "")
    window = re.search(r"\br=0;t=(\d+)", headers.get("RateLimit", ""))
    return float(text) if text.isdecimal() else float(window.group(1)) + 1 if window else 0.0


def _explain_refusal(status: int, repo_id: str) -> str:
    if status == 401:
        return "the token is not valid: log in again with `hf auth login`, or set HF_TOKEN to one that is"
    return f"the token may not do this with {repo_id}: it needs write access there"
