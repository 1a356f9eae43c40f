"""People, organizations and tokens of the loopback Hub."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tests.publishing.loopback_requests import RefusalError, Request
from tests.publishing.loopback_server import LoopbackServer, route

Right = Literal["read", "write"]
# The permissions of a scope that are enough for a right.
FINE_GRAINED = {"read": {"repo.content.read", "repo.write"}, "write": {"repo.write"}}


def owner_of(repo: str) -> str:
    """Of alice/model, and of spaces/alice/model too."""
    return repo.split("/")[-2]


@dataclass(frozen=True)
class Token:
    """Whose it is, and what of that person's rights it carries."""

    user: str
    role: str  # write, read or fineGrained
    scopes: tuple[dict, ...] = ()  # {"entity": {"type": "org", "name": "lab"}, "permissions": ["repo.write"]}

    def grants(self, right: Right, repo: str) -> bool:
        if self.role != "fineGrained":
            return right == "read" or self.role == "write"
        kind = "space" if repo.startswith("spaces/") else "model"
        owner = owner_of(repo)
        names = {("user", owner), ("org", owner), (kind, repo.removeprefix("spaces/"))}
        return any(
            (scope["entity"]["type"], scope["entity"]["name"]) in names
            and FINE_GRAINED[right] & set(scope["permissions"])
            for scope in self.scopes
        )


class Accounts(LoopbackServer):
    def __init__(self, port: int = 0):
        super().__init__(port)
        self.tokens: dict[str, Token] = {}
        self.users: set[str] = set()
        self.organizations: dict[str, dict[str, str]] = {}

    def add_token(self, user: str, role: str = "write", scopes: list[dict] | None = None) -> str:
        """Returns a new token; `scopes` make it fine-grained. Creates the user when new."""
        token = "hf_" + secrets.token_hex(17)
        self.users.add(user)
        self.tokens[token] = Token(user, "fineGrained" if scopes is not None else role, tuple(scopes or ()))
        return token

    def add_organization(self, name: str, members: dict[str, str]) -> None:
        """Roles are read, write and admin."""
        self.organizations[name] = dict(members)
        self.users |= set(members)

    def environment(self, token: str | None, home: str | Path) -> dict[str, str]:
        """For a process that talks to this Hub and to nobody else, if it has no other HF_ variables."""
        variables = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_XET_TELEMETRY_ENABLED": "0",
            "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",  # it retries as often as ever, but not for minutes
            "DO_NOT_TRACK": "1",
            "NO_PROXY": "127.0.0.1",
        }
        return variables | ({"HF_TOKEN": token} if token is not None else {})

    def is_member(self, user: str, right: Right, namespace: str) -> bool:
        role = "admin" if user == namespace else self.organizations.get(namespace, {}).get(user)
        return role in ({"read", "write", "admin"} if right == "read" else {"write", "admin"})

    def account(self, request: Request, required: bool = False) -> Token | None:
        if request.token is None and required:
            raise RefusalError(401, "Invalid username or password.")
        if request.token is not None and request.token not in self.tokens:
            raise RefusalError(401, "Invalid credentials in Authorization header")
        return self.tokens.get(request.token)

    @route("GET", "/api/whoami-v2")
    def whoami(self, request: Request):
        token = self.account(request, required=True)
        access: dict[str, Any] = {"displayName": "test", "role": token.role, "createdAt": "2024-01-01T00:00:00.000Z"}
        if token.role == "fineGrained":
            access["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": list(token.scopes)}
        organizations = [
            {"type": "org", "id": name, "name": name, "fullname": name, "roleInOrg": members[token.user]}
            for name, members in self.organizations.items()
            if token.user in members
        ]
        identity = {"type": "user", "id": token.user, "name": token.user, "fullname": token.user, "isPro": False}
        return identity | {"orgs": organizations, "auth": {"type": "access_token", "accessToken": access}}
