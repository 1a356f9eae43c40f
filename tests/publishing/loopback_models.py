"""Models and Spaces of the loopback Hub: who may see and change them, what they hold, and their references."""

import re
from typing import Literal

from tests.publishing.loopback_accounts import Accounts, Token, owner_of
from tests.publishing.loopback_repository import Commit, Repository
from tests.publishing.loopback_requests import RefusalError, Reply, Request
from tests.publishing.loopback_server import route


def repository_named(wanted: dict, namespace: str) -> str:
    """What a request to make or delete a repository means."""
    return f"{'spaces/' if wanted.get('type') == 'space' else ''}{namespace}/{wanted['name']}"


class Models(Accounts):
    def __init__(self, port: int = 0):
        super().__init__(port)
        self.repositories: dict[str, Repository] = {}

    def create(self, repo: str, private: bool = False) -> Repository:
        """A repository made on the server's side."""
        with self.lock:
            self.repositories[repo] = Repository(repo, owner_of(repo), private)
            return self.repositories[repo]

    # Who may do what.

    def may(self, token: Token | None, right: Literal["read", "write"], repo: str) -> bool:
        repository = self.repositories.get(repo)
        if right == "read" and repository and not repository.private:
            return True
        return token is not None and token.grants(right, repo) and self.is_member(token.user, right, owner_of(repo))

    def readable(self, request: Request, repo: str) -> Repository:
        """The repository, which is as good as missing for people who may not see it."""
        token = self.account(request)
        if repo not in self.repositories or not self.may(token, "read", repo):
            raise RefusalError(404 if token else 401, "Repository not found", code="RepoNotFound")
        return self.repositories[repo]

    def writable(self, request: Request, repo: str, revision: str = "main", creates_pr: bool = False) -> Repository:
        repository = self.readable(request, repo)
        token = self.account(request, required=True)
        pull = next((pull for pull in repository.pull_requests.values() if pull.revision == revision), None)
        if token.role == "read":
            raise RefusalError(403, "Forbidden: you must use a write token to upload to a repository.")
        offers = token.role == "write" and (creates_pr or (pull is not None and pull.author == token.user))
        if not offers and not self.may(token, "write", repo):
            raise RefusalError(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
        return repository

    def commit_of(self, repository: Repository, revision: str) -> Commit:
        commit = repository.commit_at(revision)
        if commit is None:
            raise RefusalError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        return commit

    # Repositories.

    @route("POST", "/api/repos/create")
    def create_repository(self, request: Request):
        token = self.account(request, required=True)
        wanted = request.json()
        namespace = wanted.get("organization") or token.user
        repo = repository_named(wanted, namespace)
        if wanted.get("type") == "space" and "sdk" not in wanted:
            raise RefusalError(400, "Invalid input: sdk is required for a Space")
        url = f"{self.endpoint}/{repo}"
        # The real Hub says so to everybody who can see the repository, whatever their rights on it.
        if repo in self.repositories and self.may(token, "read", repo):
            raise RefusalError(409, "You already created this model repo", url=url)
        if not self.may(token, "write", repo) or repo in self.repositories:
            message = f'You don\'t have the rights to create a model under the namespace "{namespace}"'
            raise RefusalError(403, message)
        self.create(repo, private=bool(wanted.get("private")) or wanted.get("visibility") == "private")
        return {"url": url, "name": wanted["name"], "id": repo}

    @route("DELETE", "/api/repos/delete")
    def delete_repository(self, request: Request):
        wanted = request.json()
        token = self.account(request, required=True)
        repository = self.writable(request, repository_named(wanted, wanted.get("organization") or token.user))
        del self.repositories[repository.name]
        return b"OK"

    @route("PUT", "/api/models/{repo}/settings")
    def change_settings(self, request: Request, repo: str):
        repository = self.writable(request, repo)
        wanted = request.json()
        if "private" in wanted or "visibility" in wanted:
            repository.private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        return {"private": repository.private}

    @route("GET", "/api/models")
    def list_models(self, request: Request):
        token, query = self.account(request), request.query
        return [
            repository.information(repository.commit_at("main"), blobs=False)
            for name, repository in self.repositories.items()
            if self.may(token, "read", name)
            and query.get("search", "") in name
            and query.get("author", owner_of(name)) == owner_of(name)
            and not name.startswith("spaces/")
        ]

    @route("GET", "/api/models/{repo}")
    @route("GET", "/api/models/{repo}/revision/{revision}")
    def model_info(self, request: Request, repo: str, revision: str = "main"):
        repository = self.readable(request, repo)
        return repository.information(self.commit_of(repository, revision), blobs="blobs" in request.query)

    @route("GET", "/api/models/{repo}/auth-check")
    def check_access(self, request: Request, repo: str):
        self.readable(request, repo)
        return {}

    @route("POST", "/api/validate-yaml")
    def validate_front_matter(self, request: Request):
        content = request.json()["content"]
        if not content.startswith("---\n"):
            return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
        front, end, _ = content[4:].partition("\n---")
        good = end and all(re.match(r"\s|#|- |[^:\s][^:]*:(\s|$)|$", line) for line in front.splitlines())
        errors = [] if good else [{"message": "the YAML metadata cannot be parsed"}]
        return Reply({"errors": errors, "warnings": []}, 400 if errors else 200)

    # Trees and references.

    @route("GET", "/api/models/{repo}/tree/{revision}")
    @route("GET", "/api/models/{repo}/tree/{revision}/{path}")
    def list_tree(self, request: Request, repo: str, revision: str, path: str = ""):
        repository, query = self.readable(request, repo), request.query
        entries = repository.entries(self.commit_of(repository, revision), query.get("expand") == "true")
        if path and entries.get(path, {}).get("type") != "directory":
            raise RefusalError(404, f"{path} does not exist on {revision}", code="EntryNotFound")
        inside = {name: entry for name, entry in entries.items() if not path or name.startswith(path + "/")}
        if query.get("recursive") == "true":
            return list(inside.values())
        return [entry for name, entry in inside.items() if "/" not in name[len(path) + 1 if path else 0 :]]

    @route("POST", "/api/models/{repo}/paths-info/{revision}")
    def paths_info(self, request: Request, repo: str, revision: str):
        repository, form = self.readable(request, repo), request.form()
        entries = repository.entries(self.commit_of(repository, revision), form.get("expand") == ["true"])
        return [entries[path] for path in form.get("paths", []) if path in entries]

    @route("GET", "/api/models/{repo}/commits/{revision}")
    def list_commits(self, request: Request, repo: str, revision: str):
        repository = self.readable(request, repo)
        return [commit.summary() for commit in repository.commits(self.commit_of(repository, revision).id)]

    @route("GET", "/api/models/{repo}/refs")
    def list_references(self, request: Request, repo: str):
        repository = self.readable(request, repo)

        def listed(names: dict[str, str], prefix: str) -> list[dict]:
            return [{"name": name, "ref": prefix + name, "targetCommit": id} for name, id in names.items()]

        references = {"branches": listed(repository.branches, "refs/heads/"), "converts": []}
        references["tags"] = listed(repository.tags, "refs/tags/")
        if request.query.get("include_prs"):
            pulls = {str(pull.number): pull.head for pull in repository.pull_requests.values()}
            references["pullRequests"] = listed(pulls, "refs/pr/")
        return references

    @route("POST", "/api/models/{repo}/branch/{branch}")
    def create_branch(self, request: Request, repo: str, branch: str):
        repository = self.writable(request, repo)
        commit = self.commit_of(repository, request.json().get("startingPoint") or "main")
        if branch in repository.branches:
            raise RefusalError(409, f"Reference already exists: refs/heads/{branch}")
        repository.branches[branch] = commit.id
        return {}

    @route("POST", "/api/models/{repo}/tag/{revision}")
    def create_tag(self, request: Request, repo: str, revision: str):
        repository = self.writable(request, repo)
        commit, tag = self.commit_of(repository, revision), request.json()["tag"]
        if tag in repository.tags:
            raise RefusalError(409, f"Tag reference already exists: refs/tags/{tag}")
        repository.tags[tag] = commit.id
        return {}

    @route("DELETE", "/api/models/{repo}/{kind}/{name}")
    def delete_reference(self, request: Request, repo: str, kind: str, name: str):
        repository = self.writable(request, repo)
        references = {"branch": repository.branches, "tag": repository.tags}[kind]
        if name not in references or (kind, name) == ("branch", "main"):
            raise RefusalError(404, f"Invalid rev id: {name}", code="RevisionNotFound")
        del references[name]
        return {}

    @route("GET", "/api/models/{repo}/discussions")
    def list_discussions(self, request: Request, repo: str):
        repository = self.readable(request, repo)
        found = [repository.discussion(number) for number in reversed(repository.pull_requests)]
        return {"discussions": found, "count": len(found), "start": 0}

    @route("GET", "/api/models/{repo}/discussions/{number}")
    def show_discussion(self, request: Request, repo: str, number: str):
        repository = self.readable(request, repo)
        if int(number) not in repository.pull_requests:
            raise RefusalError(404, "Discussion not found")
        return repository.discussion(int(number))
