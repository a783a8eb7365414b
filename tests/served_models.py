"""Tiny classifiers and servers of them on this machine's own address."""

from __future__ import annotations

import contextlib
import threading
import time

import httpx
import torch

KEY = "a-key-of-this-test-alone"
LABELS = ["refund", "delivery", "password"]
TEXTS = [
    "where is my parcel",
    "please refund my order, and the money",
    'a "quoted" refund\nover two lines',
    "reset my password please " * 9,
    " parcel",
    "café 包裹 , the password",
    "i want my money back",
]


def save_classifier(base, folder, seed=1):
    """Save a classifier on a tiny base model; the seed chooses its last layer, and so its answers."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(base, id2label=dict(enumerate(LABELS)))
    torch.nn.init.normal_(model.classifier.weight, std=2.0)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def run_service(folder, key=None, log=None, **options):
    """Serve a folder on a free port of this machine, in a thread; gives a client and the service."""
    from startup_llm.config import ServeConfig
    from startup_llm.serving.app import Service, build_app
    from startup_llm.serving.served_model import load_served_model
    from startup_llm.serving.server import build_server, open_socket

    config = ServeConfig(run=str(folder), port=0, **options)
    service = Service(config, load_served_model(config, config.run), key)
    opened = open_socket(config)
    server = build_server(build_app(service, log), config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    limits = httpx.Limits(max_connections=None)
    address = f"http://127.0.0.1:{opened.getsockname()[1]}"
    with httpx.Client(base_url=address, timeout=60, limits=limits) as client:
        yield client, service
    server.should_exit = True
    thread.join()
