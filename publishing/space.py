"""
A Gradio Space beside a model: what it holds, written anew from the release; and its way to the Hub, which is a model's.

It loads the model at the commit that was published with it, so it shows what was verified, whatever comes later.
"""

import json
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from huggingface_hub import ModelCard, SpaceCardData, snapshot_download

from training.errors import InputError
from training.files import sha256_of

from .client import PublishError
from .commit import Commit, commit_files
from .release import Release
from .repository import Repository

APP = Path(__file__).with_name("space_app.py")
LICENSE_FIELDS = ("license", "license_name", "license_link")
# Stands for the model's commit before there is one.
NO_COMMIT = "0" * 40


def gradio_version() -> str:
    """Of the Gradio here, with which a Space is checked, and which it names.

    Raises:
        InputError: there is none.
    """
    try:
        return version("gradio")
    except PackageNotFoundError:
        raise InputError("--space needs gradio: pip install '.[space]'") from None


def write_space(folder: Path, release: Release, commit: str) -> dict[str, Path]:
    """Writes the files of a Space into a folder.

    Args:
        commit: of the model, that the Space loads.

    Returns:
        Path in the repository -> file.

    Raises:
        InputError: the model writes no text, or there is no Gradio here.
    """
    facts = release.facts
    if facts.pipeline_tag != "text-generation":
        raise InputError(
            f"--space is for a model that writes text, and this one is for {facts.pipeline_tag}: leave it out"
        )
    gradio, versions = gradio_version(), facts.opened_with[0]
    license = ModelCard((release.folder / "README.md").read_text(encoding="utf-8")).data.to_dict()
    card = SpaceCardData(
        title=facts.repo_id.split("/")[1],
        sdk="gradio",
        sdk_version=gradio,
        python_version=".".join(versions["python"].split(".")[:2]),
        app_file="app.py",
        models=[facts.repo_id],
        **{name: license[name] for name in LICENSE_FIELDS if license.get(name)},
    )
    app = APP.read_text(encoding="utf-8").replace('"OWNER/NAME"', json.dumps(facts.repo_id))
    app = app.replace('"COMMIT"', json.dumps(commit))
    if facts.native:
        app = app.replace(', "trust_remote_code": True', "")
    # Without the local part, such as +cpu: the Space's index has the same version without it.
    pins = {"gradio": gradio, **{name: versions[name].split("+")[0] for name in ("torch", "transformers")}}
    texts = {
        "README.md": f"---\n{card.to_yaml()}\n---\n\n"
        f"Writes with [{facts.repo_id}](https://huggingface.co/{facts.repo_id}) as it was at commit `{commit}`, with "
        "the versions that it was checked with.\n",
        "app.py": app,
        "requirements.txt": "".join(f"{name}=={pinned}\n" for name, pinned in pins.items()),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return {name: folder / name for name in texts}


def publish_space(files: dict[str, Path], repository: Repository) -> Commit:
    """Sends the files in one commit, and compares what the Hub then serves with them.

    Raises:
        InputError: the token may not, or the Space is another's.
        PublishError: the Hub has failed, or holds something else than was sent.
    """
    repository.create()
    commit = commit_files(repository, files)
    altered = repository.differing_files(files, commit.id) or _altered_downloads(files, repository, commit)
    if altered:
        raise PublishError(
            f"commit {commit.id} of {repository.title} is there, but does not verify: {', '.join(altered)} is not what "
            "was sent; the same command sends what differs, and verifies again"
        )
    return commit


def _altered_downloads(files: dict[str, Path], repository: Repository, commit: Commit) -> list[str]:
    client = repository.client

    def download(cache: str) -> Path:
        where = {"revision": commit.id, "cache_dir": cache, "endpoint": client.api.endpoint}
        token = client.token if repository.is_private() else False  # as others will see it
        return Path(snapshot_download(**repository.place, **where, allow_patterns=list(files), token=token))

    with tempfile.TemporaryDirectory() as cache:
        there = client.call("downloading the Space", download, cache)
        return [
            name
            for name, file in files.items()
            if not (there / name).is_file() or sha256_of(there / name) != sha256_of(file)
        ]
