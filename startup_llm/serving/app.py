"""The addresses of the server, and what each answers."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from startup_llm.config import ServeConfig
from startup_llm.errors import UserError
from startup_llm.pages import load_page
from startup_llm.run_folder import RESULTS, follow_link
from startup_llm.serving.batching import Batcher, QueueFull, Stopped
from startup_llm.serving.corrections import CorrectionFile
from startup_llm.serving.figures import Figures
from startup_llm.serving.requests import RequestGate, add_to_log
from startup_llm.serving.served_model import Row, RowResult, ServedModel, load_served_model

WAITING_EXPLANATIONS = 4
"""Requests of the largest size that may wait to be explained."""

Body = TypeVar("Body", bound=BaseModel)
Input = StrictStr | dict[str, Any]


class StrictBody(BaseModel):
    """A body without keys that nobody reads."""

    model_config = ConfigDict(extra="forbid")


class PredictBody(StrictBody):
    """A row, or a list of rows: a text, or an object with the run's columns (a file as base64).

    With `explain` each answer says what made it.
    """

    inputs: Input | list[Input]
    explain: StrictBool = False


class HubBody(StrictBody):
    """A request in the form of the Hub's inference interface."""

    inputs: Input | list[Input]
    parameters: dict[Literal["top_k"], Annotated[int, Field(ge=1)]] = {}


class EmbeddingsBody(BaseModel):
    """A request in OpenAI's form; fields that it has besides, such as user, change nothing."""

    input: StrictStr | list[StrictStr]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: None = None


class ReloadBody(StrictBody):
    """Which run answers from now on: the same folder, read again, where none is named."""

    run: str | None = None


class CorrectionBody(StrictBody):
    """A row, the label that a person gives it, and what the model had answered."""

    inputs: dict[str, StrictStr]
    label: StrictStr
    predicted: StrictStr | None = None


class Service:
    """A run's model with all that answers requests.

    Args:
        config: The options.
        model: What answers.
        key: What clients have to say; None asks for none.
    """

    def __init__(self, config: ServeConfig, model: ServedModel, key: str | None) -> None:
        self.config, self.key = config, key
        self._model = model
        if config.corrections and (model.labels is None or model.task.predictor.reads_files):
            raise UserError(f"corrections {config.corrections}: {model.task.tag} has no labels of texts; leave it out")
        self.corrections = CorrectionFile(config.corrections) if config.corrections else None
        self._reloading = asyncio.Lock()
        self.figures = Figures(lambda: self.batcher.waiting_rows)
        self.figures.name_model(model.run.name, model.sha256)
        self.batcher = Batcher(
            self._compute,
            max_wait_seconds=config.max_wait_ms / 1e3,
            max_batch_rows=config.max_batch_rows,
            max_queue_rows=config.max_queue_rows,
            observe=self.figures.count_batch,
        )
        self.explanations = Batcher(
            _explain_rows,
            max_wait_seconds=0,
            max_batch_rows=1,
            max_queue_rows=WAITING_EXPLANATIONS * config.max_explained_rows,
        )

    @property
    def model(self) -> ServedModel:
        """The model that answers now."""
        return self._model

    def start(self) -> None:
        """Begin to answer; called inside the loop."""
        self.batcher.start()
        self.explanations.start()
        self._prepare_explanations()

    async def stop(self) -> None:
        """Take no more requests, and answer those that wait."""
        await self.batcher.stop()
        await self.explanations.stop()

    def _compute(self, rows: Sequence[Row]) -> list[tuple[RowResult, ServedModel]]:
        """Compute rows by one model, and say beside each result which one it was."""
        model = self._model
        return [(result, model) for result in model.compute(rows)]

    async def answer(
        self, request: Request, inputs: Sequence[Any], *, embed: bool = False, explain: bool = False
    ) -> tuple[list[RowResult], str]:
        """Return one result per row, and the SHA-256 of the model that gave them.

        Raises:
            HTTPException: If a row cannot be answered, or there is no time or place for it.
        """
        config = self.config
        if not 0 < len(inputs) <= config.max_rows:
            raise HTTPException(422, f"{len(inputs):,} rows; expected 1 to {config.max_rows:,} in one request")
        if explain:
            self._check_explained(len(inputs))
        add_to_log(request.scope, rows=len(inputs))
        end = time.monotonic() + config.timeout_seconds
        try:
            with self._model.read_rows(inputs, embed=embed) as rows:
                results = await self.batcher.submit(rows, config.timeout_seconds)
                if explain:
                    asked = [(row, result, model) for row, (result, model) in zip(rows, results, strict=True)]
                    results = await self.explanations.submit(asked, end - time.monotonic())
        except UserError as error:
            raise HTTPException(422, str(error)) from None
        except QueueFull as error:
            raise HTTPException(429, str(error), {"Retry-After": "1"}) from None
        except Stopped:
            raise HTTPException(503, "the server is stopping", {"Retry-After": "5"}) from None
        except asyncio.TimeoutError:
            raise HTTPException(504, f"no answer within {config.timeout_seconds:g} s; try again later") from None
        answers = [result for result, _ in results]
        self.figures.count_answers(answer.answer for answer in answers)
        if config.log_texts:
            shown = [value if isinstance(value, (str, dict)) else f"{len(value):,} bytes" for value in inputs]
            add_to_log(request.scope, inputs=shown, answers=[answer.answer for answer in answers])
        return answers, results[0][1].sha256

    def _prepare_explanations(self) -> None:
        """Read training rows that explanations show before the first one is asked for; a fault is told who asks."""
        if self.config.show_training_rows:
            read = functools.partial(getattr, self._model, "explainer")
            reading = asyncio.ensure_future(self.explanations.call(read))
            reading.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _check_explained(self, rows: int) -> None:
        """Refuse to explain what cannot be explained here, or is too much.

        Raises:
            HTTPException: If it is.
        """
        try:
            self._model.check_explained()
        except UserError as error:
            raise HTTPException(501, str(error)) from None
        if rows > (limit := self.config.max_explained_rows):
            raise HTTPException(422, f"{rows:,} rows to explain; expected 1 to {limit:,} in one request")

    async def reload(self, run: str | None) -> dict[str, Any]:
        """Load a run while requests wait, let it answer from now on, and say what answered before.

        Raises:
            HTTPException: If it cannot take the other's place.
        """
        async with self._reloading:
            before, started = self._model, time.monotonic()
            load = functools.partial(self._load_successor, run or before.named)
            try:
                after = await self.batcher.call(load)
            except UserError as error:
                raise HTTPException(422, str(error)) from None
            self.figures.name_model(after.run.name, after.sha256)
            self._prepare_explanations()
            return {
                "run": after.run.name,
                "model_sha256": after.sha256,
                "before": before.sha256,
                "seconds": round(time.monotonic() - started, 3),
            }

    async def watch(self, log: Callable[[str], None] | None) -> None:
        """Answer with the run that is meant whenever it is another one, or was written anew.

        Args:
            log: Gets a line of JSON for each switch, and for each that is refused.
        """
        if self.config.watch_seconds is None:
            return
        seen = _identify(self.config.run)
        while True:
            await asyncio.sleep(self.config.watch_seconds)
            found = _identify(self.config.run)
            if found in (None, seen):
                continue
            seen = found
            try:
                record = {"event": "reload", **await self.reload(self.config.run)}
            except HTTPException as error:
                record = {"event": "reload refused", "run": self.config.run, "reason": error.detail}
            if log is not None:
                log(json.dumps(record))

    def _load_successor(self, run: str) -> ServedModel:
        """Load a run in the model's thread, between two batches: loading sets what is global to the process.

        Raises:
            HTTPException: If its requests would look another way.
        """
        before, after = self._model, load_served_model(self.config, run)
        for what, old, new in (
            ("answers", before.task.tag, after.task.tag),
            ("reads", ", ".join(before.columns), ", ".join(after.columns)),
        ):
            if old != new:
                raise HTTPException(409, f"{run} {what} {new}, and {before.run} {old}; start another server for it")
        self._model = after
        return after


def _explain_rows(asked: Sequence[tuple[Row, RowResult, ServedModel]]) -> list[tuple[RowResult, ServedModel]]:
    """Explain results of a request's rows, all of one model, by that model."""
    model = asked[0][2]
    try:
        explained = model.explain([row for row, _, _ in asked], [result.answer for _, result, _ in asked])
    except UserError as error:
        raise HTTPException(501, str(error)) from None
    return [(replace(result, answer=answer), model) for (_, result, _), answer in zip(asked, explained, strict=True)]


def _identify(run: str) -> tuple[Any, ...] | None:
    """Return what tells a run from another one, or from itself written anew; None while there is none."""
    folder = follow_link(run)
    file = next((file for file in (folder / RESULTS, folder / "config.json") if file.is_file()), None)
    try:
        stat = file.stat() if file is not None else None
    except OSError:
        return None
    return None if stat is None else (str(folder), stat.st_ino, stat.st_mtime_ns)


def build_app(service: Service, log: Callable[[str], None] | None = None) -> FastAPI:
    """Return the application of a server.

    Args:
        service: What answers.
        log: Gets a line of JSON for each request; None writes no log.
    """

    @asynccontextmanager
    async def live(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        watching = asyncio.create_task(service.watch(log))
        yield
        watching.cancel()
        await service.stop()

    model, config = service.model, service.config
    title = f"{model.run.name}: {model.task.tag}"
    app = FastAPI(title=title, version=model.sha256[:12], lifespan=live, redoc_url=None)
    app.add_middleware(
        RequestGate,
        key=service.key,
        max_body_bytes=int(config.max_body_mb * 1e6),
        timeout_seconds=config.timeout_seconds,
        figures=service.figures,
        log=log,
    )
    app.add_exception_handler(StarletteHTTPException, _write_error)
    app.add_exception_handler(RequestValidationError, _write_fault)
    app.add_exception_handler(Exception, _write_failure)
    _add_state(app, service)
    _add_page(app, service)
    _add_predict(app, service)
    if model.labels is not None:
        _add_hub_form(app, service)
    if model.embeds:
        _add_embeddings(app, service)
    return app


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Whether the process lives")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", summary="Whether requests are answered")
    async def ready() -> dict[str, str]:
        if not service.batcher.is_running:
            raise HTTPException(503, "the server is stopping")
        return {"status": "ready", "model_sha256": service.model.sha256}

    @app.get("/info", summary="The run: its model, columns, labels, figures and card")
    async def info() -> dict[str, Any]:
        return service.model.describe()

    @app.get("/metrics", summary="Counts and latencies, as Prometheus reads them")
    async def metrics() -> Response:
        return Response(service.figures.write(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post("/admin/reload", summary="Let another run of the same task answer, or the same folder read again")
    async def reload(body: ReloadBody | None = None) -> dict[str, Any]:
        if service.key is None:
            raise HTTPException(403, "reloading needs a key; start the server with STARTUP_LLM_API_KEY set")
        if service.config.workers > 1:
            reason = (
                "this is one of several workers; send SIGHUP to the server, or use --watch_seconds, for all of them"
            )
            raise HTTPException(409, reason)
        return await service.reload(body.run if body else None)


def _add_predict(app: FastAPI, service: Service) -> None:
    examples = service.model.list_examples() if service.key is None else [dict.fromkeys(service.model.columns, "...")]
    shown = {"one": {"inputs": examples[0]}, "several": {"inputs": examples}}
    if service.model.explains:
        shown["explained"] = {"inputs": examples[0], "explain": True}

    @app.post(
        "/predict", summary="Answer rows as recipes/predict.py does", openapi_extra=_describe(PredictBody, shown)
    )
    async def predict(request: Request, explain: bool = False) -> dict[str, Any]:
        inputs, body = await _read_inputs(request, service, PredictBody)
        answers, sha256 = await service.answer(request, inputs, explain=explain or (body is not None and body.explain))
        return {"answers": [answer.answer for answer in answers], "model_sha256": sha256}


def _add_page(app: FastAPI, service: Service) -> None:
    """Add a page for people: plain HTML and a script, for which nothing has to be installed or fetched."""
    template = load_page("startup_llm.serving", "try.html.jinja")

    @app.get("/", summary="A page to try the model", response_class=HTMLResponse)
    async def show_page() -> HTMLResponse:
        model = service.model
        page = template.render(
            run=model.run.name,
            task=model.task.tag,
            sentences=model.results.get("headline") or model.results.get("sentences") or (),
            columns=model.columns,
            labels=model.labels or (),
            has_scores=model.labels is not None,
            reads_files=model.task.predictor.reads_files,
            needs_key=service.key is not None,
            explains=model.explains,
            corrects=service.corrections is not None,
        )
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    @app.post("/corrections", summary="Keep a row with its right label for the next training")
    async def correct(body: CorrectionBody) -> dict[str, str]:
        if service.corrections is None:
            raise HTTPException(404, "no corrections are kept; start the server with --corrections FILE")
        if body.label not in (service.model.labels or ()):
            raise HTTPException(422, f"unknown label {body.label!r}; /info lists the labels")
        try:
            with service.model.read_rows([body.inputs]):
                pass
        except UserError as error:
            raise HTTPException(422, str(error)) from None
        await asyncio.to_thread(service.corrections.add, body.inputs, body.label, body.predicted)
        return {"status": "kept"}


def _add_hub_form(app: FastAPI, service: Service) -> None:
    shown = {"one": {"inputs": "a text", "parameters": {"top_k": 3}}}

    @app.post("/", summary="The form of the Hub's inference interface", openapi_extra=_describe(HubBody, shown))
    async def classify(request: Request) -> list[Any]:
        inputs, body = await _read_inputs(request, service, HubBody)
        results, _ = await service.answer(request, inputs)
        top_k = body.parameters.get("top_k") if body is not None else None
        ranked = [
            [
                {"label": label, "score": score}
                for label, score in sorted(scores.items(), key=lambda item: -item[1])[:top_k]
            ]
            for scores in (result.scores or {} for result in results)
        ]
        is_single_file = service.model.task.predictor.reads_files and len(ranked) == 1
        return ranked[0] if is_single_file else ranked


def _add_embeddings(app: FastAPI, service: Service) -> None:
    shown = {"several": {"input": ["a text", "another text"]}}

    @app.post(
        "/v1/embeddings", summary="OpenAI's form; vectors of norm 1", openapi_extra=_describe(EmbeddingsBody, shown)
    )
    async def embed(request: Request) -> dict[str, Any]:
        body = _parse(EmbeddingsBody, await request.body())
        inputs = [body.input] if isinstance(body.input, str) else body.input
        results, _ = await service.answer(request, inputs, embed=True)
        tokens = sum(result.tokens for result in results)
        return {
            "object": "list",
            "model": body.model or service.model.run.name,
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": _write_vector(result.vector, body.encoding_format),
                }
                for index, result in enumerate(results)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }


def _write_vector(vector: np.ndarray | None, encoding_format: str) -> list[float] | str:
    values = np.asarray(vector, dtype="<f4")
    return base64.b64encode(values.tobytes()).decode("ascii") if encoding_format == "base64" else values.tolist()


async def _read_inputs(request: Request, service: Service, kind: type[Body]) -> tuple[list[Any], Any]:
    """Return a request's rows and its body; a file that is sent as it is, is one row and has no such body."""
    content = await request.body()
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = media_type.endswith("json") or content.lstrip()[:1] == b"{"  # curl calls JSON a form by default
    if not is_json and service.model.task.predictor.reads_files:
        return [content], None
    body: Any = _parse(kind, content)
    return body.inputs if isinstance(body.inputs, list) else [body.inputs], body


def _parse(kind: type[Body], content: bytes) -> Body:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise HTTPException(422, _explain(error.errors(include_url=False, include_context=False))) from None


def _explain(faults: Sequence[Any]) -> str:
    """Return the first fault of a body in one line."""
    fault = faults[0]
    place = ".".join(str(part) for part in fault["loc"] if not str(part).startswith(("list[", "str", "dict[", "body")))
    actual = "" if fault["type"] in ("json_invalid", "missing") else f", got {fault['input']!r:.60}"
    return f"{place + ': ' if place else ''}{fault['msg']}{actual}; /docs shows what a request looks like"


def _describe(kind: type[BaseModel], examples: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that the endpoint reads itself."""
    content = {
        "schema": kind.model_json_schema(),
        "examples": {name: {"value": value} for name, value in examples.items()},
    }
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


async def _write_error(request: Request, error: Any) -> JSONResponse:
    return JSONResponse({"error": error.detail}, error.status_code, getattr(error, "headers", None))


async def _write_fault(request: Request, error: Any) -> JSONResponse:
    return JSONResponse({"error": _explain(error.errors())}, 422)


async def _write_failure(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": f"the server failed ({type(error).__name__}); its log has more"}, 500)
