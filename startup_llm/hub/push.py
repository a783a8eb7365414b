"""Publish a finished run or a data set as one commit to a repository of the Hub.

The commit names its parent: what another person commits meanwhile is never overwritten, the files are merged anew.
Large files go ahead of it and are known to the Hub by their hash, so that a push that broke off goes on where it was.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from startup_llm.access_tokens import read_own_tokens, redact_tokens
from startup_llm.errors import UserError
from startup_llm.hub.card_merge import CardConflict, merge_readme
from startup_llm.hub.model_card import ADAPTER_FOLDER, Publication
from startup_llm.hub.published_content import Allowances, check_content
from startup_llm.hub.published_dataset import STOPPING, build_published_dataset
from startup_llm.hub.published_folder import (
    CARD,
    RECORD,
    PublishedFile,
    PublishedFolder,
    build_published_folder,
    describe,
)
from startup_llm.hub.published_space import build_published_space
from startup_llm.run_folder import read_results, require_results

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile

    from startup_llm.config import PushConfig

MAX_TRIES = 3
"""How often a push starts again where somebody else commits in between."""

_QUOTA = re.compile(r"storage limit|quota|not enough (storage|space)", re.IGNORECASE)
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token with write access"


@dataclass(frozen=True)
class Push:
    """What was published, or would be.

    Attributes:
        files: Path in the repository to size in bytes.
        changed: Paths that differ from what was published before.
        removed: Paths that an earlier push wrote and this one does not.
        notes: What a person should know before or after publishing.
        url: The commit's or the pull request's address, or None where nothing was sent.
        commit: The published commit's id, or None for a dry run.
    """

    files: Mapping[str, int]
    changed: list[str]
    removed: list[str]
    notes: list[str]
    url: str | None = None
    commit: str | None = None


@dataclass(frozen=True)
class _Remote:
    """The repository as it stands at one commit."""

    commit: str
    private: bool
    entries: Mapping[str, RepoFile]
    card: str | None
    record: Mapping[str, Any]


class _Unreachable(UserError):
    """The Hub did not answer."""


def push(config: PushConfig, cards: Path, endpoint: str | None = None) -> Push:
    """Publish a finished run or a data set.

    Args:
        config: What, where and how.
        cards: Folder of data sets' cards, such as `data_cards/`.
        endpoint: The Hub's address; default: the one that `huggingface_hub` uses (HF_ENDPOINT).

    Raises:
        UserError: If there is nothing to publish, no token or no right, the repository's id is bad or its name taken,
            its storage full, the Hub out of reach, if publishing would overwrite what a person wrote, or if an audit
            finds in a data set what the options do not allow.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    token = _require_token()
    folder = _prepare(config, cards)
    api = HfApi(endpoint=endpoint, token=token)
    message = f"Publish {folder.name}"
    with _explain_errors(config.repo, token):
        api.whoami()
        for _ in range(MAX_TRIES):
            remote = _open_repository(api, config, folder.record)
            files, changed, removed = _compare(folder, remote, config)
            sizes = {path: file.size for path, file in files.items()}
            done = Push(sizes, changed, removed, folder.notes + _describe_visibility(config, remote))
            if not changed and not removed:
                return replace(done, commit=remote.commit)
            if config.pull_request and (same := _find_same_pull_request(api, config, message, files)):
                return replace(done, url=same)
            additions = [CommitOperationAdd(path, _as_upload(files[path].content)) for path in changed]
            deletions = [CommitOperationDelete(path, is_folder=False) for path in removed]
            try:
                sent = api.create_commit(
                    config.repo,
                    additions + deletions,
                    commit_message=message,
                    repo_type=config.repo_type,
                    revision=config.branch,
                    create_pr=config.pull_request,
                    parent_commit=remote.commit,
                )
            except HfHubHTTPError as error:
                if error.response.status_code != 412:
                    raise
                continue
            return replace(done, url=sent.pr_url or str(sent.commit_url), commit=sent.oid)
    raise UserError(f"{config.repo} was changed by somebody else {MAX_TRIES} times during this push; push again later")


def preview(config: PushConfig, cards: Path, endpoint: str | None = None) -> Push:
    """Write the files that `push` would publish into the folder `config.dry_run`, and send nothing.

    The repository is read where there is a token, because the card merges with the one there.

    Raises:
        UserError: Like `push`, or if the folder holds something.
    """
    from huggingface_hub import HfApi, get_token

    target = Path(config.dry_run or "")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"dry_run {target} exists; name a folder that does not exist yet")
    token = get_token()
    folder = _prepare(config, cards)
    notes, remote = list(folder.notes), None
    if token is None:
        notes.append(f"{config.repo} was not read (no token); these are the files of a new repository")
    else:
        try:
            with _explain_errors(config.repo, token):
                remote = _read_repository(HfApi(endpoint=endpoint, token=token), config, folder.record)
        except _Unreachable:
            notes.append(f"the Hub could not be reached; these are the files of a new repository {config.repo}")
    files, changed, removed = _compare(folder, remote, config)
    for path, file in files.items():
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file.content, bytes):
            place.write_bytes(file.content)
        else:
            shutil.copyfile(file.content, place)
    return Push({path: file.size for path, file in files.items()}, changed, removed, notes)


def _require_token() -> str:
    from huggingface_hub import get_token

    token = get_token()
    if token is None:
        raise UserError(f"no access token; {_LOG_IN}")
    if not re.fullmatch(r"[!-~]+", token):
        raise UserError(f"the access token holds characters that no token has; {_LOG_IN}")
    return token


def _prepare(config: PushConfig, cards: Path) -> PublishedFolder:
    """Check the config, and choose and clean the files."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(config.repo)
    except HFValidationError as error:
        raise UserError(f"bad repo {config.repo!r}: expected OWNER/NAME ({error})") from None
    if config.repo.count("/") != 1:
        raise UserError(f"bad repo {config.repo!r}: expected OWNER/NAME, such as my-account/{config.repo}")
    if config.branch and config.pull_request:
        raise UserError("--branch and --pull_request exclude each other; a pull request goes to main")
    if config.license and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", config.license):
        raise UserError(f"bad license {config.license!r}: expected an identifier such as apache-2.0 or cc-by-4.0")
    if config.dataset == (config.run is not None):
        options = f"--dataset and --run {config.run}" if config.dataset else "neither --run nor --dataset"
        raise UserError(f"{options} given; expected --run RUN for a model, or --dataset with a data section for rows")
    if config.space and (config.dataset or config.what not in ("auto", "merged")):
        other = "--dataset" if config.dataset else f"--what {config.what}"
        raise UserError(f"--space publishes a page that asks a run's whole model; leave out {other}")
    allowed = Allowances(config.allow_findings, STOPPING if config.dataset else ())
    folder = build_published_dataset(config, cards, allowed) if config.dataset else _build_published_run(config)
    check_content(folder, allowed, read_own_tokens(), names=config.names)
    return folder


def _build_published_run(config: PushConfig) -> PublishedFolder:
    run = Path(config.run or "")
    results = read_results(run)
    require_results(results, run, ("task", "method", "decides", "models"))
    if config.space:
        return build_published_space(run, results, config.license, with_report=config.with_report)
    kept: Literal["both", "merged"] = "both" if (run / ADAPTER_FOLDER).is_dir() else "merged"
    publication = Publication(config.repo, kept if config.what == "auto" else config.what, config.license)
    return build_published_folder(run, results, publication, with_report=config.with_report)


def _open_repository(api: HfApi, config: PushConfig, record: str) -> _Remote:
    """Read the repository, made where it does not exist, and its branch too."""
    remote = _read_repository(api, config, record)
    if remote is None:
        if config.pull_request:
            raise UserError(f"no repository {config.repo} to send a pull request to; leave --pull_request out")
        sdk = "gradio" if config.space else None
        api.create_repo(config.repo, repo_type=config.repo_type, private=not config.public, space_sdk=sdk)
        remote = _read_repository(api, config, record)
    if config.branch and config.branch not in ("main", remote.commit):
        from huggingface_hub.errors import RevisionNotFoundError

        try:
            api.repo_info(config.repo, revision=config.branch, repo_type=config.repo_type)
        except RevisionNotFoundError:
            api.create_branch(config.repo, branch=config.branch, repo_type=config.repo_type, exist_ok=True)
            remote = _read_repository(api, config, record)
    return remote


def _read_repository(api: HfApi, config: PushConfig, record: str) -> _Remote | None:
    """Read the repository at the branch, or at main where there is no such branch; None where there is none."""
    from huggingface_hub import RepoFile
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = api.repo_info(config.repo, repo_type=config.repo_type)
    except RepositoryNotFoundError:
        return None
    if not info.private and not config.public:
        what = "data set" if config.dataset else "page" if config.space else "run"
        raise UserError(f"{config.repo} is public: everybody would see this {what}; say so with --public")
    if config.branch:
        with suppress(RevisionNotFoundError):
            info = api.repo_info(config.repo, revision=config.branch, repo_type=config.repo_type)
    where: dict[str, Any] = {"revision": info.sha, "repo_type": config.repo_type}
    listed = api.list_repo_tree(config.repo, recursive=True, **where)
    entries = {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}
    with tempfile.TemporaryDirectory() as cache:
        texts = {
            name: Path(api.hf_hub_download(config.repo, name, cache_dir=cache, **where)).read_bytes()
            for name in (CARD, record)
            if name in entries
        }
    try:
        card = texts[CARD].decode() if CARD in texts else None
    except UnicodeDecodeError:
        raise UserError(f"the card of {config.repo} is not UTF-8 text; fix it there first") from None
    return _Remote(info.sha, bool(info.private), entries, card, _read_record(texts.get(record)))


def _read_record(content: bytes | None) -> dict[str, Any]:
    """Return what the last push left for this one, or an empty dict."""
    try:
        record = json.loads(content or b"{}")[RECORD]
        return {"files": dict(record["files"]), "card_metadata": dict(record["card_metadata"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _compare(
    folder: PublishedFolder, remote: _Remote | None, config: PushConfig
) -> tuple[dict[str, PublishedFile], list[str], list[str]]:
    """Merge what is published with the repository.

    Returns:
        All files, the card merged; the paths that differ from the repository's; the paths that an earlier
        push wrote, that nobody changed since and that are not published now.

    Raises:
        UserError: If a person's file or words would be overwritten.
    """
    files = dict(folder.files)
    if remote is None:
        return files, list(files), []
    prefer = {"license"} if config.license else set()
    try:
        metadata = remote.record.get("card_metadata", {})
        card = merge_readme(folder.card, remote.card, metadata, prefer, force=config.pull_request)
    except CardConflict as conflict:
        raise UserError(
            f"the card of {config.repo} cannot be merged: {conflict}; or send a proposal with --pull_request"
        ) from None
    files[CARD] = describe(card.encode())
    changed = [path for path, file in files.items() if not _is_same(remote.entries.get(path), file)]
    known = {
        path: PublishedFile(b"", 0, digests["sha256"], digests["git_oid"])
        for path, digests in remote.record.get("files", {}).items()
    }
    foreign = [
        path
        for path in changed
        if path in remote.entries
        and path != CARD
        and not (path == folder.record and remote.record)
        and not (path in known and _is_same(remote.entries[path], known[path]))
    ]
    if foreign and not config.overwrite and not config.pull_request:
        raise UserError(
            f"{config.repo} holds files that this recipe did not write: {', '.join(foreign[:4])}; "
            "propose yours with --pull_request, replace them with --overwrite, or name another --repo"
        )
    removed = [path for path in known if path not in files and _is_same(remote.entries.get(path), known[path])]
    return files, changed, removed


def _is_same(entry: RepoFile | None, file: PublishedFile) -> bool:
    if entry is None:
        return False
    return entry.lfs.sha256 == file.sha256 if entry.lfs else entry.blob_id == file.git_oid


def _find_same_pull_request(
    api: HfApi, config: PushConfig, title: str, files: Mapping[str, PublishedFile]
) -> str | None:
    """Return the address of an open pull request that proposes just this, as after an answer that was lost."""
    from huggingface_hub import RepoFile

    repo, kind = config.repo, config.repo_type
    for proposal in api.get_repo_discussions(
        repo, repo_type=kind, discussion_type="pull_request", discussion_status="open"
    ):
        if proposal.title != title:
            continue
        listed = api.list_repo_tree(repo, recursive=True, revision=proposal.git_reference, repo_type=kind)
        entries = {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}
        if all(_is_same(entries.get(path), file) for path, file in files.items()):
            return proposal.url
    return None


def _as_upload(content: Path | bytes) -> str | bytes:
    return str(content.absolute()) if isinstance(content, Path) else content


def _describe_visibility(config: PushConfig, remote: _Remote) -> list[str]:
    if config.public and remote.private:
        return [f"{config.repo} is private and stays so; its settings page makes it public"]
    return []


@contextmanager
def _explain_errors(repo: str, token: str) -> Iterator[None]:
    """Turn the client's errors into a line for the person at the keyboard, without the token."""
    from huggingface_hub import errors as hub

    try:
        yield
    except (hub.HTTPError, hub.OfflineModeIsEnabled, hub.EntryNotFoundError, RuntimeError, ValueError) as error:
        explained = _explain(error, repo)
        if explained is None:
            raise
        message = redact_tokens(str(explained).replace(token, "hf_…"))
        raise type(explained)(message) from None


def _explain(error: BaseException, repo: str) -> UserError | None:
    from huggingface_hub import errors as hub

    if isinstance(error, (RuntimeError, hub.LocalEntryNotFoundError)) and error.__cause__ is not None:
        return _explain(error.__cause__, repo)  # the client wraps what went wrong with one file
    if isinstance(error, hub.OfflineModeIsEnabled):
        return _Unreachable("offline mode is on; unset HF_HUB_OFFLINE to publish")
    if isinstance(error, hub.HfHubHTTPError):
        return _explain_answer(error, repo)
    if isinstance(error, (hub.HTTPError, ConnectionError, TimeoutError)):
        return _Unreachable(
            f"the connection to the Hub failed ({_first_line(error)}); push again: it goes on where it was"
        )
    if isinstance(error, ValueError) and _QUOTA.search(str(error)):
        return _explain_quota(repo, error)
    if isinstance(error, ValueError) and "Invalid metadata in README.md" in str(error):
        return UserError(f"the Hub refuses the card: {' '.join(str(error).split())}")
    return None


def _explain_answer(error: Any, repo: str) -> UserError:
    from huggingface_hub import errors as hub

    status = error.response.status_code
    said = error.server_message or _first_line(error)
    owner = repo.split("/")[0]
    if status in (402, 413, 507) or (status in (400, 403) and _QUOTA.search(str(error))):
        return _explain_quota(repo, said)
    if isinstance(error, hub.RepositoryNotFoundError):
        return UserError(f"no repository {repo}, or your token may not see it")
    if status == 401:
        return UserError(f"the Hub refuses the access token; {_LOG_IN}")
    if status == 403:
        return UserError(
            f"your token may not write to {repo} ({said}); use a token with write access, "
            f"or a repository of your own instead of {owner}'s"
        )
    if status == 409:
        return UserError(f"the name {repo} is taken ({said}); name another --repo")
    if status == 429 or status >= 500:
        return UserError(f"the Hub is busy (answer {status}: {said}); push again later: it goes on where it was")
    return UserError(f"the Hub refuses this push to {repo} (answer {status}: {said})")


def _explain_quota(repo: str, said: Any) -> UserError:
    return UserError(
        f"the storage of {repo.split('/')[0]} is full ({_first_line(said)}); free some, or publish less with --what"
    )


def _first_line(error: Any) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
