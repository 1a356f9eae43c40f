"""A repository in memory, with git's own ids: files, commits, branches, tags and pull requests."""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cached_property

GIT_ATTRIBUTES = b"".join(
    b"*.%s filter=lfs diff=lfs merge=lfs -text\n" % extension
    for extension in (
        b"bin",
        b"ckpt",
        b"h5",
        b"npy",
        b"npz",
        b"onnx",
        b"parquet",
        b"pt",
        b"pth",
        b"safetensors",
        b"zip",
    )
)


# What the Hub writes of a new Space.
SPACE_CARD = b"---\ntitle: Space\nsdk: gradio\napp_file: app.py\n---\n"
# Images are large files too; the Hub adds them to .gitattributes one by one when they are committed.
IMAGES = ("*.gif", "*.jpeg", "*.jpg", "*.png", "*.webp")


def git_id(kind: str, content: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content).hexdigest()


@dataclass(frozen=True)
class File:
    """One version of a file. Git holds a pointer instead of the content if `lfs`."""

    content: bytes
    lfs: bool = False
    xet_hash: str = ""
    served: bytes | None = None  # what downloads get, if that is not the content

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()
        )

    @cached_property
    def id(self) -> str:
        return git_id("blob", self.pointer if self.lfs else self.content)

    @property
    def download(self) -> bytes:
        return self.content if self.served is None else self.served


def folder_ids(files: dict[str, File], prefix: str = "") -> dict[str, str]:
    """Git's id of every folder, by its path; "" is the root."""
    entries: dict[str, File | None] = {}
    for path, file in files.items():
        if path.startswith(prefix):
            name, _, rest = path.removeprefix(prefix).partition("/")
            entries[name] = None if rest else file
    ids: dict[str, str] = {}
    tree = b""
    # Git sorts a folder as if its name ended with a slash.
    for name, file in sorted(entries.items(), key=lambda entry: entry[0].encode() + (b"" if entry[1] else b"/")):
        if file is None:
            ids |= folder_ids(files, f"{prefix}{name}/")
        mode, child = ("100644", file.id) if file else ("40000", ids[prefix + name])
        tree += f"{mode} {name}\0".encode() + bytes.fromhex(child)
    return ids | {prefix.rstrip("/"): git_id("tree", tree)}


@dataclass(frozen=True)
class Commit:
    id: str
    parent: str | None
    title: str
    description: str
    author: str
    date: datetime
    files: dict[str, File] = field(repr=False)

    def summary(self) -> dict:
        """What lists of commits say."""
        authors, date = [{"user": self.author}], written(self.date)
        return {"id": self.id, "title": self.title, "message": self.description, "authors": authors, "date": date}


@dataclass
class PullRequest:
    number: int
    title: str
    description: str
    author: str
    base: str  # branch
    head: str  # commit id
    status: str = "open"

    @property
    def revision(self) -> str:
        return f"refs/pr/{self.number}"


class Repository:
    """Begins with one commit that holds .gitattributes, and a Space's a card too, as on the Hub."""

    def __init__(self, name: str, author: str, private: bool = False):
        self.name = name
        self.private = private
        self.created = datetime.now(UTC)
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.pull_requests: dict[int, PullRequest] = {}
        self.objects: dict[str, File] = {}  # uploaded large files by sha256, committed or not
        self._commits: dict[str, Commit] = {}
        files = {".gitattributes": File(GIT_ATTRIBUTES)}
        if name.startswith("spaces/"):
            files["README.md"] = File(SPACE_CARD)
        self.branches["main"] = self.write("initial commit", "", author, None, files)

    def write(self, title: str, description: str, author: str, parent: str | None, files: dict[str, File]) -> str:
        """Adds a commit that no branch points to yet, and returns its id."""
        date = datetime.now(UTC)
        lines = [f"tree {folder_ids(files)['']}", *([f"parent {parent}"] if parent else [])]
        # The number keeps apart two equal commits of the same second.
        lines += [f"author {author} <> {int(date.timestamp())} +0000", f"number {len(self._commits)}"]
        id = git_id("commit", "\n".join([*lines, "", title, description]).encode())
        self._commits[id] = Commit(id, parent, title, description, author, date, dict(sorted(files.items())))
        return id

    def commit_at(self, revision: str) -> Commit | None:
        """The commit behind a branch, a tag, refs/pr/1 or a commit's id."""
        references = {pull.revision: pull.head for pull in self.pull_requests.values()}
        references |= {f"refs/tags/{tag}": id for tag, id in self.tags.items()} | self.tags
        references |= {f"refs/heads/{branch}": id for branch, id in self.branches.items()} | self.branches
        return self._commits.get(references.get(revision, revision))

    def move(self, revision: str, id: str) -> None:
        """Points a branch or a pull request at a commit."""
        number = revision.removeprefix("refs/pr/")
        if number != revision:
            self.pull_requests[int(number)].head = id
        else:
            self.branches[revision.removeprefix("refs/heads/")] = id

    def open_pull_request(self, title: str, description: str, author: str, base: str, head: str) -> PullRequest:
        number = len(self.pull_requests) + 1
        self.pull_requests[number] = PullRequest(number, title, description, author, base, head)
        return self.pull_requests[number]

    def commits(self, revision: str = "main") -> list[Commit]:
        """Newest first."""
        found = []
        commit = self.commit_at(revision)
        while commit:
            found.append(commit)
            commit = self._commits.get(commit.parent)
        return found

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: file.content for path, file in self.commit_at(revision).files.items()}

    def last_change(self, path: str, commit: Commit) -> Commit:
        history = self.commits(commit.id)
        older = [*(former.files.get(path) for former in history[1:]), None]
        return next(change for change, before in zip(history, older, strict=True) if change.files.get(path) != before)

    def entries(self, commit: Commit, expand: bool) -> dict[str, dict]:
        """What lists of a tree say about its folders and files, by path."""
        entries: dict[str, dict] = {
            path: {"type": "directory", "oid": id, "size": 0} for path, id in folder_ids(commit.files).items() if path
        }
        for path, file in commit.files.items():
            entries[path] = {"type": "file", "oid": file.id, "size": len(file.content)}
            if file.lfs:
                entries[path]["lfs"] = {"oid": file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}
            if file.xet_hash:
                entries[path]["xetHash"] = file.xet_hash
            if expand:
                entries[path]["lastCommit"] = self.last_change(path, commit).summary()
        return {path: entries[path] | {"path": path} for path in sorted(entries)}

    def information(self, commit: Commit, blobs: bool) -> dict:
        """What the model's own page of the API says; `blobs` adds sizes and hashes of files."""
        siblings = []
        for path, file in commit.files.items():
            siblings.append({"rfilename": path} | ({"size": len(file.content), "blobId": file.id} if blobs else {}))
            if blobs and file.lfs:
                large = {"sha256": file.sha256, "size": len(file.content), "pointerSize": len(file.pointer)}
                siblings[-1]["lfs"] = large
        name = self.name.removeprefix("spaces/")
        names = {"_id": name, "id": name, "author": name.split("/")[0]}
        if name == self.name:
            names["modelId"] = name
        dates = {"createdAt": written(self.created), "lastModified": written(commit.date)}
        state = {"sha": commit.id, "private": self.private, "disabled": False, "gated": False}
        return names | dates | state | {"downloads": 0, "likes": 0, "tags": [], "siblings": siblings}

    def discussion(self, number: int) -> dict:
        pull = self.pull_requests[number]
        return {
            "num": number,
            "title": pull.title,
            "status": pull.status,
            "author": {"name": pull.author},
            "isPullRequest": True,
            "createdAt": written(self.commit_at(pull.head).date),
            "repo": {"name": self.name, "type": "model"},
            "changes": {"base": f"refs/heads/{pull.base}"},
            "filesWithConflicts": [],
            "events": [],
        }

    def stores_as_lfs(self, path: str, content_or_sample: bytes, size: int, revision: str = "main") -> bool:
        """The Hub's choice between git and large file storage."""
        commit = self.commit_at(revision) or self.commit_at("main")
        patterns = [*IMAGES, *tracked(commit.files)]
        return size > 10_000_000 or b"\0" in content_or_sample[:512] or matches(path, patterns)


def put(files: dict[str, File], path: str, file: File) -> None:
    """Adds a file; a large one that .gitattributes does not know gets a line there, as on the Hub."""
    files[path] = file
    if file.lfs and not matches(path, tracked(files)):
        attributes = files[".gitattributes"].content if ".gitattributes" in files else b""
        line = f"{path.replace(' ', '[[:space:]]')} filter=lfs diff=lfs merge=lfs -text\n"
        files[".gitattributes"] = File(attributes + line.encode())


def written(date: datetime) -> str:
    return date.strftime("%Y-%m-%dT%H:%M:%S.") + f"{date.microsecond // 1000:03d}Z"


def tracked(files: dict[str, File]) -> list[str]:
    """The patterns of large files in .gitattributes."""
    attributes = files[".gitattributes"].content.decode() if ".gitattributes" in files else ""
    return [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]


def matches(path: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(path if "/" in pattern else path.rsplit("/", 1)[-1], pattern) for pattern in patterns)
