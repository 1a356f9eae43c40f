"""Who may publish where: what a token says of itself, and what the Hub's refusals mean."""

from typing import Any

from training.errors import InputError


def refuse_without_right(who: dict[str, Any], repo_id: str, kind: str, create_pr: bool) -> None:
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
            for entity in [scope.get("entity", {})]
            if entity.get("name") == owner or (entity.get("name") == repo_id and entity.get("type", kind) == kind)
            for right in scope.get("permissions", [])
        }
        if not any(right.startswith("repo.") and not right.endswith("read") for right in rights):
            raise InputError(
                f"the token has no write access to repositories of {owner}: add that to it, or use another"
            )


def explain_refusal(status: int, repo_id: str) -> str:
    """What the HTTP status 401 or 403 means for publishing to a repository."""
    if status == 401:
        return "the token is not valid: log in again with `hf auth login`, or set HF_TOKEN to one that is"
    return f"the token may not do this with {repo_id}: it needs write access there"
