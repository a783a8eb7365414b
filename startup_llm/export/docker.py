"""A folder that Docker builds an image of: an export, the server, and the packages that they need, without torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import startup_llm.errors
from startup_llm.config import DEFAULT_TASK
from startup_llm.errors import UserError
from startup_llm.hub.request_examples import build_request_examples
from startup_llm.run_folder import RESULTS, find_model
from startup_llm.runs.onnx_model import holds_onnx
from startup_llm.tasks import load_task
from startup_llm.tasks.sentence_similarity.prediction import CORPUS_FILE

PACKAGES = (
    "fastapi", "uvicorn", "prometheus_client", "pydantic", "onnxruntime", "tokenizers", "numpy", "jsonargparse",
    "docstring_parser", "typeshed_client", "PyYAML", "rich", "psutil", "jinja2",
)  # fmt: skip
"""What the server of an export imports."""
NOT_NEEDED = ("huggingface-hub", "sympy", "mpmath")
"""What those packages name and the server never imports: tokenizers asks the Hub by it."""
_RUN_FILES = (RESULTS, "README.md", "config.yaml", "export.json", CORPUS_FILE)
_READY_SECONDS = 120

_DOCKERFILE = """# {name}: a server of this export, built with: docker build --tag {tag} .
FROM python:{python}-slim
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 ORT_DISABLE_TELEMETRY=1
WORKDIR /app
COPY requirements.txt ./
RUN pip install --no-cache-dir --no-deps --requirement requirements.txt \\
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin server
COPY startup_llm ./startup_llm
COPY recipes ./recipes
COPY run ./run
USER server
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \\
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
STOPSIGNAL SIGTERM
CMD ["python", "recipes/serve.py", "--run", "run", "--host", "0.0.0.0", "--port", "8000"]
"""
_COMPOSE = """services:
  {tag}:
    build: .
    image: {tag}
    ports:
      - "127.0.0.1:8000:8000"
    environment:
      STARTUP_LLM_API_KEY: ${{STARTUP_LLM_API_KEY:?set it to a long random key that clients send}}
    read_only: true
    tmpfs:
      - /tmp
    cap_drop:
      - ALL
    security_opt:
      - no-new-privileges:true
    mem_limit: {limit_mb}m
    restart: unless-stopped
"""
_README = """# {name}

```
export STARTUP_LLM_API_KEY=$(python -c 'import secrets; print(secrets.token_urlsafe(32))')
docker compose up --build --detach
curl -H "Authorization: Bearer $STARTUP_LLM_API_KEY" {call}
```

Without Docker, in this folder:

```
python -m venv .venv
.venv/bin/pip install --no-deps --requirement requirements.txt
PYTHONPATH=. .venv/bin/python recipes/serve.py --run run
```

| what | size |
|---|---:|
| packages, as they are installed here ({packages}) | {packages_mb:,.0f} MB |
| model and tokenizer | {model_mb:,.1f} MB |
| memory of the server after its first answer, measured here | {memory_mb:,.0f} MB |

The base image python:{python}-slim comes on top; the image itself was not built by the recipe that wrote this folder.
There is no torch in it. The server runs as a user without rights, from a file system that it cannot write to.
"""


@dataclass(frozen=True)
class ImageFolder:
    """What was written.

    Attributes:
        packages_bytes: Of the packages as they are installed here.
        model_bytes: Of the model's folder.
        memory_bytes: Of the server after its first answer.
    """

    packages_bytes: int
    model_bytes: int
    memory_bytes: int


def write_image_folder(run: str, folder: Path, recipe: Path) -> ImageFolder:
    """Write a Dockerfile, a compose file, pinned requirements, a README, and all that they copy.

    Args:
        run: Folder of an export.
        folder: A folder that does not exist yet.
        recipe: recipes/serve.py.

    Raises:
        UserError: If the run is no export, the folder exists, or the server of the written folder gives no answer.
    """
    model, results = find_model(run)
    if not holds_onnx(model):
        raise UserError(
            f"--docker: {run} is no export to ONNX; make one with --format onnx-int8, and name its folder by --run"
        )
    if folder.exists():
        raise UserError(f"--docker {folder} exists; name a folder that does not exist yet")
    try:
        return _write(Path(run), model, results, folder, recipe)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _list_packages(run: Path, results: Mapping[str, Any]) -> list[str]:
    """Return what the server of a run imports: what its task needs, and what reads the texts that it searches."""
    task = load_task(results.get("task", DEFAULT_TASK))
    return [*PACKAGES, *task.predictor.packages, *["pyarrow"] * (run / CORPUS_FILE).is_file()]


def _write(run: Path, model: Path, results: Mapping[str, Any], folder: Path, recipe: Path) -> ImageFolder:
    package = Path(startup_llm.errors.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(package, folder / "startup_llm", ignore=ignored)
    (folder / "recipes").mkdir()
    shutil.copyfile(recipe, folder / "recipes" / "serve.py")
    shutil.copytree(model, folder / "run" / "model", ignore=ignored)
    for name in _RUN_FILES:
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / "run" / name)
    versions = find_versions(_list_packages(run, results))
    pinned = "".join(f"{name}=={version}\n" for name, version in versions.items())
    (folder / "requirements.txt").write_text(pinned, encoding="utf-8")
    written = ImageFolder(_measure_packages(versions), _measure(model), _measure_memory(folder))
    name, examples = run.resolve().name, build_request_examples(results)
    values = {
        "call": examples["bash"].removeprefix("curl ") if examples else "",
        "name": name,
        "tag": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "export",
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "packages": len(versions),
        "packages_mb": written.packages_bytes / 1e6,
        "model_mb": written.model_bytes / 1e6,
        "memory_mb": written.memory_bytes / 1e6,
        "limit_mb": 256 + 2 * round(written.memory_bytes / 1e6),
    }
    for file, text in (("Dockerfile", _DOCKERFILE), ("compose.yaml", _COMPOSE), ("README.md", _README)):
        (folder / file).write_text(text.format(**values), encoding="utf-8")
    (folder / ".dockerignore").write_text(".venv\n__pycache__\n", encoding="utf-8")
    return written


def find_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the installed versions of packages and of what they need, by name.

    Raises:
        UserError: If one is not installed.
    """
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    waiting = [*names]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found or name in NOT_NEEDED:
            continue
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            raise UserError(f"--docker needs the package {name}; pip install 'startup-llm[serve,export]'") from None
        found[name] = package.version
        needed = map(Requirement, package.requires or ())
        waiting += [part.name for part in needed if part.marker is None or part.marker.evaluate({"extra": ""})]
    return dict(sorted(found.items()))


def _measure_packages(versions: Mapping[str, str]) -> int:
    files = [Path(file.locate()) for name in versions for file in metadata.distribution(name).files or ()]
    return sum(file.stat().st_size for file in files if file.is_file())


def _measure(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _measure_memory(folder: Path) -> int:
    """Start the server of a written folder, and return its resident memory in bytes once it is ready."""
    import psutil

    command = [sys.executable, "recipes/serve.py", "--run", "run", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": ".", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    environment.pop("STARTUP_LLM_API_KEY", None)
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            address = _read_address(server)
            urllib.request.urlopen(f"{address}/ready", timeout=_READY_SECONDS).read()  # it has answered an example
            return psutil.Process(server.pid).memory_info().rss
        finally:
            server.terminate()


def _read_address(server: subprocess.Popen) -> str:
    lines = []
    end = time.monotonic() + _READY_SECONDS
    for line in server.stdout:
        lines.append(line)
        if (match := re.search(r"at (http://\S+)", line)) or time.monotonic() > end:
            break
    if not lines or not match:
        raise UserError(f"the server of the written folder does not start: {''.join(lines)[-300:].strip()}")
    return match[1]
