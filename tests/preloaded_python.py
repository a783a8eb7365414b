"""A Python that starts in milliseconds with torch, transformers, peft and the rest imported.

Every run ends with the reload gate, which starts a Python process, and so do many tests. A new process imports for
seconds what it needs for milliseconds. Here a server imports it once and forks: each program is still a process of
its own, with its own memory, environment, arguments, standard streams and exit code, which a real start would have
too; it has computed nothing before. What a fork cannot give is started from nothing: a program under other options
of Python than `-u`, or under other variables of those that libraries read while they are imported.

Its `executable` takes the place of `sys.executable`, so that no caller knows of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator

COLD_PYTHON = sys.executable
READ_BY_IMPORTS = ("GOMP_", "HF_", "HUGGINGFACE_", "LD_", "MKL_", "MPL", "OPENBLAS_", "PYTHON", "TRANSFORMERS_")
"""How the names of variables begin that take effect while a module is imported."""
PACKAGE = "STARTUP_LLM_PACKAGE_FOLDER"
"""A variable with the folder of another copy of the package, which a program and its children then import."""
READ_LATER = ("HF_TOKEN", "PYTHONUNBUFFERED")
PRELOADED = (
    *("accelerate.commands.accelerate_cli", "accelerate.commands.launch", "bm25s", "datasets", "evaluate", "jinja2"),
    *("jsonargparse", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "matplotlib.figure"),
    *("pandas", "peft", "psutil", "rouge_score.rouge_scorer", "sacrebleu", "scipy.signal", "scipy.stats"),
    *("sentence_transformers", "sklearn.feature_extraction.text", "soundfile"),
    *("sklearn.linear_model", "sklearn.metrics", "sklearn.svm", "torch", "torch.distributed.run", "transformers"),
    *("transformers.pipelines", "transformers.trainer", "transformers.trainer_seq2seq"),
)


@contextlib.contextmanager
def start_preloaded_python(environment: dict[str, str] | None = None) -> Iterator[str]:
    """Give the path of an executable that takes the words that Python takes, until the context ends.

    It is Python itself where nothing can be forked, or where a GPU is, which a process cannot share with its forks.

    Args:
        environment: Variables of the server, which imports under them; those of this process where none are given.
    """
    import subprocess
    import tempfile

    if not hasattr(os, "fork") or os.path.exists("/dev/nvidiactl"):
        yield COLD_PYTHON
        return
    with tempfile.TemporaryDirectory(prefix="python-") as folder, socket.socket(socket.AF_UNIX) as listener:
        executable, address = os.path.join(folder, "python"), os.path.join(folder, "socket")
        for name, words in (("python", ""), ("accelerate", "-m accelerate.commands.accelerate_cli ")):
            path = os.path.join(folder, name)
            with open(path, "w", encoding="utf-8") as script:
                script.write(f'#!/bin/sh\nexec {COLD_PYTHON} -IS {__file__} {address} {words}"$@"\n')
            os.chmod(path, 0o700)
        listener.bind(address)
        listener.listen(64)  # from here on, clients wait
        server = subprocess.Popen(
            [COLD_PYTHON, __file__, "--serve", str(listener.fileno()), executable],
            env=environment,
            pass_fds=[listener.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        listener.close()  # else clients would wait for a server that has died
        try:
            yield executable
        finally:
            server.stdin.close()
            server.wait()


def is_read_by_imports(name: str) -> bool:
    """Say whether a variable is one that a fork cannot change any more."""
    return name.startswith(READ_BY_IMPORTS) and name not in READ_LATER


# ---------------------------------------------------------------------------------------------- the client
def run_client(address: str, words: list[str]) -> None:
    """Have the server start Python with these words, and end as that process ends."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        request = json.dumps({"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}).encode()
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(request)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
        answer = connection.recv(4, socket.MSG_WAITALL)
    if len(answer) < 4:
        sys.exit("the preloaded Python has gone")
    status = int.from_bytes(answer, "big")
    if status == COLD:
        os.execv(sys.executable, [sys.executable, *words])  # this file's Python is the one to start
    if os.WIFSIGNALED(status):
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


COLD = 2**31
"""The answer to a client that has to start Python itself: no exit status."""


# ---------------------------------------------------------------------------------------------- the server
def serve(descriptor: int) -> dict:
    """Answer clients until the session that started the server ends; return in a fork, with what it shall run."""
    listener, environments = socket.socket(fileno=descriptor), [dict(os.environ)]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a fork that has ended leaves nothing
    while True:
        if 0 in select.select([listener, 0], [], [])[0]:
            os._exit(0)
        connection, _ = listener.accept()
        if len(environments) == 1:
            preload()
            environments.append(dict(os.environ))  # with what imports set
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return supervise(connection, environments)
        connection.close()


def preload() -> None:
    """Import what recipes import, without what is not installed."""
    import gc
    import importlib
    import pkgutil

    import startup_llm

    names = [module.name for module in pkgutil.walk_packages(startup_llm.__path__, "startup_llm.")]
    for name in (*PRELOADED, *names):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    fill_caches()
    gc.collect()
    gc.freeze()


def fill_caches() -> None:
    """Do once for all forks what a run does for seconds and is the same in each."""
    import torch
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from startup_llm.audit.odd_texts import find_other_languages
    from startup_llm.command_line import parse_config
    from startup_llm.config import FinetuneConfig
    from startup_llm.evaluation import report
    from startup_llm.evaluation.environment import read_required_versions
    from startup_llm.hub.model_card import load_card_template
    from startup_llm.training import speed

    torch.set_num_threads(1)  # no fork would have the others
    shorten_runs()
    for name in ("float32", "bfloat16"):
        speed.measure_matrix_product(name)
    parse_config(FinetuneConfig, [], train_section=True)
    read_required_versions()
    find_other_languages(["where is my parcel, and when does it arrive"], most_texts=1)
    report._load_template()
    load_card_template("model_card.md.jinja")
    get_checkpoint_conversion_mapping("bert")  # compiles a thousand patterns, of which every loaded model asks


def shorten_runs() -> None:
    """Leave out of this process's runs what takes long, and is the same in each or has tests of its own.

    A module that is not imported yet is changed by the next call.
    """
    os.fsync = lambda descriptor: None  # no test cuts the power
    changes = {
        "jsonargparse": remember_options,
        "startup_llm.evaluation.report": lay_out_no_figures,
        "startup_llm.runs.finish": time_one_row,
        "startup_llm.training.speed": measure_once,
    }
    for name in changes.keys() & sys.modules.keys() - _SHORTENED:
        changes[name]()
        _SHORTENED.add(name)


_SHORTENED: set[str] = set()


def lay_out_no_figures() -> None:
    """Let a report's figures be drawn where their texts would be without looking for room for them."""
    from matplotlib.figure import Figure

    from startup_llm.evaluation import report

    report._new_figure = lambda height: Figure(figsize=(4.6, height), facecolor="none")


def time_one_row() -> None:
    """Let a run time a single row that comes alone, and not rows for a second."""
    from startup_llm.runs import finish

    finish.TIMED_SECONDS = 0


def measure_once() -> None:
    """Let runs share what they measure for seconds, matrix products and attention."""
    import functools

    from startup_llm.training import speed

    speed.measure_matrix_product = functools.cache(speed.measure_matrix_product)
    measure, few = functools.cache(speed.measure_attention), speed.AttentionShape((16, 16), heads=2, head_width=8)
    speed.measure_attention = lambda kernel, dtype, shape: measure(kernel, dtype, few)


def remember_options() -> None:
    """Let jsonargparse find an option by its name once; for each value it walks all of a parser's."""
    import weakref

    from jsonargparse import _core, _subcommands

    search, known = _subcommands.find_action_and_subcommand, weakref.WeakKeyDictionary()

    def find(parser, name, exclude=None):
        options, key = known.setdefault(parser, {}), (name, exclude, len(parser._actions))
        if key not in options:
            options[key] = search(parser, name, exclude)
        return options[key]

    _core.find_action_and_subcommand = _subcommands.find_action_and_subcommand = find


def supervise(connection: socket.socket, environments: list[dict[str, str]]) -> dict:
    """Read a request, fork for it and return there; stay behind to pass signals on and to tell how it ended.

    Args:
        connection: To the client.
        environments: The server's variables before and after its imports, any of which a request may have.
    """
    head, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
    request = json.loads(connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
    request["program"], given = read_words(request["words"]), request["environment"]
    names = filter(is_read_by_imports, {*given, *environments[0], *environments[1]})
    is_changed = any(given.get(name) not in [variables.get(name) for variables in environments] for name in names)
    if request["program"] is None or is_changed:
        connection.sendall(COLD.to_bytes(4, "big"))
        os._exit(0)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    wakeup = signal.set_wakeup_fd(writer)
    if (process := os.fork()) == 0:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.close()
        for descriptor in (reader, writer):
            os.close(descriptor)
        for place, descriptor in enumerate(descriptors):
            os.dup2(descriptor, place)
            os.close(descriptor)
        return request
    for descriptor in (0, 1, 2, *descriptors):  # else a reader of the process's output would wait for its end here
        os.close(descriptor)
    while True:
        ready = select.select([connection, reader], [], [])[0]
        if reader in ready:
            os.read(reader, 64)
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                with contextlib.suppress(OSError):
                    connection.sendall(status.to_bytes(4, "big"))
                os._exit(0)
        if connection in ready:
            for number in connection.recv(1) or [signal.SIGKILL]:  # the client was killed
                os.kill(process, number)


# ---------------------------------------------------------------------------------------------- the program
def read_words(words: list[str]) -> tuple[str, str, list[str]] | None:
    """Return the kind of the program (`-c`, `-m` or "" for a file), its text, and its arguments; None if unknown."""
    words = words[1:] if words[:1] == ["-u"] else words
    if len(words) > 1 and words[0] in ("-c", "-m"):
        return words[0], words[1], words[2:]
    if words and not words[0].startswith("-"):
        return "", words[0], words[1:]
    return None


def be_process(request: dict, executable: str) -> tuple[str, str]:
    """Be the process that Python would be: arguments, environment, folder, path, threads; return what it shall run."""
    kind, text, arguments = request["program"]
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.executable = executable
    sys.argv = [kind or text, *arguments]
    sys.path[0] = "" if kind == "-c" else os.getcwd() if kind == "-m" else os.path.dirname(os.path.abspath(text))
    if request["words"][0] == "-u" or os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)
    if PACKAGE in os.environ:
        for name in [name for name in sys.modules if name.partition(".")[0] == "startup_llm"]:
            del sys.modules[name]
        sys.path.insert(1, os.environ[PACKAGE])
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # each fork has what the server drew
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count()))
    return kind, text


def run_program(kind: str, text: str) -> int:
    """Run a program to its end and return the exit code."""
    import runpy
    import types

    try:
        if kind == "-m":
            sys.modules.pop(text, None)  # it was imported, and shall run
            runpy.run_module(text, run_name="__main__", alter_sys=True)
        else:
            main = sys.modules["__main__"] = types.ModuleType("__main__")
            if kind == "-c":
                source, path = text, "<string>"
            else:
                path = main.__file__ = os.path.abspath(text)
                with open(path, "rb") as file:
                    source = file.read()
            exec(compile(source, path, "exec"), main.__dict__)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return (stop.code or 0) & 255
        sys.stderr.write(f"{stop.code}\n")
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def end_process(code: int) -> None:
    """End as Python does, but without freeing every module, which would copy the memory shared with the server."""
    import atexit
    import threading

    threading._shutdown()  # waits for the threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] != "--serve":
        run_client(sys.argv[1], sys.argv[2:])
    end_process(run_program(*be_process(serve(int(sys.argv[2])), sys.argv[3])))
