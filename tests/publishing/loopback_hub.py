"""A Hub on 127.0.0.1 for tests: models, Spaces, accounts, commits and downloads, for the client as it is installed.

`python tests/publishing/loopback_hub.py` starts one by hand.
"""

import argparse
import base64
import hashlib
import json
import re
import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote

if __name__ == "__main__":  # a script's own folder is on the path, not the folder above it
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.publishing.loopback_accounts import owner_of
from tests.publishing.loopback_models import Models
from tests.publishing.loopback_repository import File, Repository, put
from tests.publishing.loopback_requests import RefusalError, Reply, Request, ranged
from tests.publishing.loopback_server import route, serve
from tests.publishing.loopback_xet import Storage


def flipped(content: bytes) -> bytes:
    """The same bytes with one bit of the middle one changed."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :] if content else content


class LoopbackHub(Models):
    """Accounts, repositories, faults and the requests so far; the Hub's HTTP API while inside `with`."""

    def __init__(self, xet: bool = True, port: int = 0):
        super().__init__(port)
        self.xet = xet
        self.cas = Storage(self.register)
        self.add_routes(self.cas)
        self._corruptions: list[tuple[str, str]] = []
        self._signature = secrets.token_hex(8)  # the part of a storage URL that cannot be guessed

    def __enter__(self):
        super().__enter__()
        self.cas.address = self.storage
        return self

    # What tests arrange and look at.

    def commit(self, repo: str, files: dict[str, bytes | None], message: str = "commit", branch: str = "main") -> str:
        """Somebody else's commit, made on the server's side; None deletes. Returns the commit's id."""
        with self.lock:
            repository = self.repositories[repo]
            parent = repository.commit_at(branch)
            changed = dict(parent.files)
            for path, content in files.items():
                if content is None:
                    del changed[path]
                elif content and repository.stores_as_lfs(path, content, len(content), branch):
                    put(changed, path, self.large_file(content))
                    repository.objects[changed[path].sha256] = changed[path]
                else:
                    put(changed, path, File(content))
            repository.move(branch, repository.write(message, "", owner_of(repo), parent.id, changed))
            return repository.commit_at(branch).id

    def large_file(self, content: bytes) -> File:
        """However it came: the Hub offers every large file over Xet too."""
        return File(content, lfs=True, xet_hash=self.cas.add(content) if self.xet else "")

    def corrupt(self, pattern: str, where: Literal["stored", "served"] = "stored") -> None:
        """Alters matching files when they are committed: in the tree with its hashes, or only in downloads."""
        self._corruptions.append((pattern, where))

    # Uploads.

    @route("POST", "/api/models/{repo}/preupload/{revision}")
    def choose_upload_modes(self, request: Request, repo: str, revision: str):
        repository = self.writable(request, repo, revision, creates_pr="create_pr" in request.query)
        present = self.commit_of(repository, revision).files
        files = []
        for wanted in request.json()["files"]:
            path, sample = wanted["path"], base64.b64decode(wanted["sample"])
            mode = "lfs" if repository.stores_as_lfs(path, sample, wanted["size"], revision) else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False})
            if path in present:
                files[-1]["oid"] = present[path].sha256 if present[path].lfs else present[path].id
        return {"files": files}

    @route("POST", "/{repo}.git/info/lfs/objects/batch")
    def negotiate_uploads(self, request: Request, repo: str):
        wanted = request.json()
        # A pull request to come has no reference yet.
        reference = wanted.get("ref", {}).get("name")
        repository = self.writable(request, repo, reference or "main", creates_pr=reference is None)
        if self.xet and "xet" in wanted.get("transfers", []):
            objects = [{"oid": asked["oid"], "size": asked["size"]} for asked in wanted["objects"]]
            return {"transfer": "xet", "objects": objects}
        objects = []
        for asked in wanted["objects"]:
            objects.append({"oid": asked["oid"], "size": asked["size"]})
            if asked["oid"] not in repository.objects:
                href = f"{self.storage}/upload/{self._signature}/{repo}/{asked['oid']}"
                verify = {"href": f"{self.endpoint}/api/lfs/{repo}/verify"}
                objects[-1]["actions"] = {"upload": {"href": href}, "verify": verify}
        return {"transfer": "basic", "objects": objects}

    @route("PUT", "/upload/{signature}/{repo}/{oid}")
    def receive(self, request: Request, signature: str, repo: str, oid: str):
        if signature != self._signature or hashlib.sha256(request.body).hexdigest() != oid:
            raise RefusalError(400, "The content does not have the announced sha256.")
        self.repositories[repo].objects[oid] = self.large_file(request.body)
        return b""

    @route("GET", "/api/models/{repo}/xet-write-token/{revision}")
    def grant_xet_uploads(self, request: Request, repo: str, revision: str):
        self.writable(request, repo, revision, creates_pr="create_pr" in request.query)
        if not self.xet:
            raise RefusalError(404, "Xet is not enabled for this repository")
        return self.cas.connection(repo, "write")

    @route("GET", "/api/models/{repo}/xet-read-token/{revision}")
    def grant_xet_downloads(self, request: Request, repo: str, revision: str):
        self.commit_of(self.readable(request, repo), revision)
        return self.cas.connection(repo, "read")

    def register(self, repo: str, sha256: str, xet_hash: str, content: bytes) -> None:
        """A file has arrived over Xet."""
        self.repositories[repo].objects[sha256] = File(content, lfs=True, xet_hash=xet_hash)

    @route("POST", "/api/lfs/{repo}/verify")
    def verify(self, request: Request, repo: str):
        asked = request.json()
        stored = self.repositories[repo].objects.get(asked["oid"])
        if stored is None or len(stored.content) != asked["size"]:
            raise RefusalError(404, "Object does not exist")
        return b""

    @route("POST", "/api/models/{repo}/commit/{revision}")
    def receive_commit(self, request: Request, repo: str, revision: str):
        creates_pr = "create_pr" in request.query
        repository = self.writable(request, repo, revision, creates_pr)
        author = self.account(request).user
        lines = [json.loads(line) for line in request.body.splitlines()]
        header = lines[0]["value"]
        parent = self.commit_of(repository, revision)
        if revision in repository.tags or revision == parent.id:
            raise RefusalError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        if header.get("parentCommit", parent.id) != parent.id:
            raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(parent.files)
        for line in lines[1:]:
            self.apply(repository, files, line["key"], line["value"])
        title, description = header["summary"], header.get("description", "")
        id = repository.write(title, description, author, parent.id, files)
        if creates_pr:
            pull = repository.open_pull_request(title, description, author, revision, id)
        else:
            repository.move(revision, id)
        return {
            "success": True,
            "commitOid": id,
            "commitUrl": f"{self.endpoint}/{repo}/commit/{id}",
            "hookOutput": "",
            "pullRequestUrl": f"{self.endpoint}/{repo}/discussions/{pull.number}" if creates_pr else None,
        }

    def apply(self, repository: Repository, files: dict[str, File], key: str, value: dict) -> None:
        """One line of a commit."""
        path = value["path"].rstrip("/")
        if key == "file":
            put(files, path, self.corrupted(path, File(base64.b64decode(value["content"]))))
        elif key == "lfsFile":
            if value["oid"] not in repository.objects:
                raise RefusalError(400, f"LFS pointer pointed to a file that does not exist: {path}")
            put(files, path, self.corrupted(path, repository.objects[value["oid"]]))
        else:
            gone = [path] if key == "deletedFile" else [name for name in files if name.startswith(path + "/")]
            if not gone or gone[0] not in files:
                raise RefusalError(404, f"A file with this name doesn't exist: {path}", code="EntryNotFound")
            for name in gone:
                del files[name]

    def corrupted(self, path: str, file: File) -> File:
        for pattern, where in self._corruptions:
            if re.search(pattern, path):
                altered = flipped(file.content)
                if where == "stored":
                    return self.large_file(altered) if file.lfs else File(altered)
                if file.xet_hash:
                    self.cas.replace(file.xet_hash, altered)
                return replace(file, served=altered)
        return file

    # Downloads.

    @route("GET", "/{repo}/resolve/{revision}/{path}")
    def resolve(self, request: Request, repo: str, revision: str, path: str):
        commit = self.commit_of(self.readable(request, repo), revision)
        headers = {"X-Repo-Commit": commit.id}
        if path not in commit.files:
            raise RefusalError(404, "Entry not found", code="EntryNotFound", headers=headers)
        file = commit.files[path]
        if not file.lfs:
            return ranged(request, file.download, headers | {"ETag": f'"{file.id}"'})
        headers |= {"X-Linked-Size": str(len(file.content)), "X-Linked-Etag": f'"{file.sha256}"'}
        if file.xet_hash:
            token = f"{self.endpoint}/api/models/{repo}/xet-read-token/{commit.id}"
            headers |= {"X-Xet-Hash": file.xet_hash, "Link": f'<{token}>; rel="xet-auth"'}
        location = f"{self.storage}/download/{self._signature}/{repo}/{commit.id}/{quote(path)}"
        return Reply(f"Found. Redirecting to {location}".encode(), 302, headers | {"Location": location})

    @route("GET", "/download/{signature}/{repo}/{commit}/{path}")
    def send_large_file(self, request: Request, signature: str, repo: str, commit: str, path: str):
        if signature != self._signature:
            raise RefusalError(403, "Access denied")
        file = self.repositories[repo].commit_at(commit).files[path]
        return ranged(request, file.download, {"ETag": f'"{file.sha256}"'})


def main() -> None:
    parser = argparse.ArgumentParser(description="A Hub on 127.0.0.1, until Ctrl-C.")
    parser.add_argument("--port", type=int, default=0)
    hub = LoopbackHub(port=parser.parse_args().port)
    token = hub.add_token("alice")
    serve(hub, lambda: f"HF_ENDPOINT={hub.endpoint} HF_TOKEN={token}")


if __name__ == "__main__":
    main()
