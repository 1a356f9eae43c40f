"""A repository of the Hub, a model's or a Space: who may publish there, what it holds, its branches and tags."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import sha

from training.errors import InputError

from .access import refuse_without_right
from .client import Client, PublishError
from .contents import is_stale

VERSION = re.compile(r"v([1-9][0-9]*)")
Kind = Literal["model", "space"]


class Repository:
    """A repository of the Hub, and the place in it to publish to.

    Args:
        repo_id: `owner/name`.
        kind: a model, or a Space with Gradio; the two have names of their own.
        private: whether a new repository is made private.
        revision: the branch; made where there is none.
        create_pr: open a pull request on it instead.
        endpoint, token, say: see `Client`.

    Raises:
        InputError: there is no token, or it or the endpoint cannot be one.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        kind: Kind = "model",
        private: bool = False,
        revision: str = "main",
        create_pr: bool = False,
        endpoint: str | None = None,
        token: str | None = None,
        say: Callable[[str], object] = print,
    ):
        self.repo_id = repo_id
        self.kind = kind
        self.place = {"repo_id": repo_id, "repo_type": kind}  # for the client's calls
        self.title = repo_id if kind == "model" else f"the Space {repo_id}"
        self.private = private
        self.revision = revision
        self.create_pr = create_pr
        self.user = ""
        self.client = Client(repo_id, endpoint, token, say)

    @property
    def url(self) -> str:
        return f"{self.client.api.endpoint}/{'spaces/' if self.kind == 'space' else ''}{self.repo_id}"

    def require_access(self) -> bool:
        """Makes sure that this token may publish here; changes nothing. Returns whether the repository exists.

        Raises:
            InputError: it may not, or the repository is public and should be private.
        """
        if not self.user:
            who = self.client.call("asking who the token belongs to", self.client.api.whoami)
            refuse_without_right(who, self.repo_id, self.kind, self.create_pr)
            self.user = who["name"]
        info = self._info()
        if info is None and self.create_pr:
            raise InputError(
                f"{self.repo_id} does not exist, or you cannot see it: there is nothing to propose this to"
            )
        if info is not None and self.private and not info.private:
            raise InputError(
                f"{self.title} is public, and publishing does not change that: make it private on its settings "
                "page, or choose another name"
            )
        return info is not None

    def create(self) -> None:
        """Makes the repository where there is none."""
        if self.require_access():
            return
        # exist_ok: an attempt may have failed after the work was done.
        create, private = self.client.api.create_repo, self.private or None  # None: as the organization's default says
        sdk = "gradio" if self.kind == "space" else None
        self.client.call(f"creating {self.title}", create, **self.place, private=private, space_sdk=sdk, exist_ok=True)
        if not self.require_access():
            raise PublishError(f"{self.title} was created, but cannot be seen: run the same command again")

    def create_branch(self) -> None:
        """Makes the branch where there is none.

        Raises:
            InputError: its name is a tag's.
        """
        refs = self.client.call("reading the branches", self.client.api.list_repo_refs, **self.place)
        if any(ref.name == self.revision for ref in refs.tags):
            raise InputError(f"{self.revision} is a tag of {self.repo_id}, not a branch: name another --revision")
        if not any(ref.name == self.revision for ref in refs.branches):
            create = self.client.api.create_branch
            self.client.call("creating the branch", create, **self.place, branch=self.revision, exist_ok=True)

    def is_private(self) -> bool:
        info = self._info()
        return info is not None and info.private

    def head(self, revision: str) -> str:
        """The newest commit of a branch, tag or pull request."""
        info = self._info(revision)
        if info is None:
            raise PublishError(f"{self.title} has no {revision}, or not any more")
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
        tag = self.client.api.create_tag
        self.client.call("creating the tag", tag, **self.place, tag=name, revision=commit, exist_ok=True)
        named = self.tag(name)
        if named != commit:
            raise InputError(f"the tag {name} names {named}, not this commit ({commit}): choose a new name")

    def tree(self, commit: str) -> dict[str, Any]:
        """Path -> what the Hub says of the file."""

        def read_tree() -> dict[str, Any]:
            entries = self.client.api.list_repo_tree(**self.place, recursive=True, revision=commit)
            return {entry.path: entry for entry in entries if hasattr(entry, "blob_id")}

        return self.client.call("reading the repository's files", read_tree)

    def differing_files(self, files: dict[str, Path], commit: str) -> list[str]:
        """Paths that a commit does not hold as they are here, and stale ones that it still holds."""
        changed, deleted = self.differences(files, self.tree(commit))
        return [*changed, *deleted]

    def differences(self, files: dict[str, Path], there: dict[str, Any]) -> tuple[list[str], list[str]]:
        """Paths to upload and paths to delete, so that a tree holds the files, and of a model nothing stale."""
        changed = [path for path, file in files.items() if path not in there or not _is_same(file, there[path])]
        stale = [path for path in there if path not in files and self.kind == "model" and is_stale(path)]
        return changed, stale

    def _names(self, kind: Literal["tags", "branches"]) -> list[str]:
        """The names of the tags or branches; none where there is no repository."""

        def read_names() -> list[str]:
            try:
                return [ref.name for ref in getattr(self.client.api.list_repo_refs(**self.place), kind)]
            except RepositoryNotFoundError:
                return []

        return self.client.call(f"reading the {kind}", read_names)

    def _info(self, revision: str | None = None) -> Any:
        def read_info() -> Any:
            try:
                return self.client.api.repo_info(**self.place, revision=revision)
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return None

        return self.client.call(f"looking for {self.title}", read_info)


def _is_same(file: Path, entry: Any) -> bool:
    """Compares a file here with one there, by the hash that the Hub keeps of it."""
    if file.stat().st_size != entry.size:
        return False
    if entry.lfs is not None:
        with file.open("rb") as stream:
            return sha.sha_fileobj(stream).hex() == entry.lfs.sha256
    return sha.git_hash(file.read_bytes()) == entry.blob_id
