"""The server on docs/threads-and-serving.md under load: each answer is that of one request alone."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyseq as ts

PAGE = (Path(__file__).parents[1] / "docs" / "threads-and-serving.md").read_text("utf-8")
CODE, START = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def served() -> Iterator[tuple[dict[str, Any], int]]:
    """The page's names, and the port where its server answers: a free one in the place of the page's."""
    names: dict[str, Any] = {}
    ts.manual_seed(0)
    exec(CODE, names)
    for parameter in names["model"].parameters():      # so that its answers differ, as a trained one's do
        ts.nn.init.normal_(parameter, std=0.5)
    server = eval(START.replace("8000", "0").removesuffix(".serve_forever()\n"), names)
    assert isinstance(server, ThreadingHTTPServer)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield names, server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def ask(port: int, session: Any, ids: Any, status: int = 200) -> Any:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/", json.dumps({"session": session, "ids": ids}))
    answer = connection.getresponse()
    assert answer.status == status
    found = json.loads(answer.read())
    connection.close()
    return found


def test_answers_under_load_are_those_of_one_request_alone(served: tuple[dict[str, Any], int]) -> None:
    names, port = served
    random = np.random.default_rng(0)
    texts = {f"session {n}": [random.integers(0, 5000, random.integers(1, 20)).tolist() for _ in range(4)]
             for n in range(8)}

    def talk(session: str) -> list[list[int]]:
        return [ask(port, session, ids) for ids in texts[session]]

    with ThreadPoolExecutor(8) as clients:
        answers = dict(zip(texts, clients.map(talk, texts), strict=True))
    for session, pieces in texts.items():
        with ts.no_grad():
            whole, _ = names["model"](np.array([[*chain(*pieces)]]))      # all at once, and nobody beside it
        assert [*chain(*answers[session])] == whole.numpy()[0].tolist()
    assert len({tag for answer in answers.values() for tags in answer for tag in tags}) > 3
    assert not any(part.requires_grad for state in names["states"].values() for part in state)


def test_curl_asks_as_the_page_says(served: tuple[dict[str, Any], int]) -> None:
    _, port = served
    body = re.search(r"curl -d '(.*?)'", PAGE)
    assert body
    asked = json.loads(body[1])
    assert len(ask(port, **asked)) == 3 and asked["session"] in served[0]["states"]


@pytest.mark.parametrize("ids", [[7000], [-1], 7, "abc", None, [1.5], ["a"], [[1, 2]], [[1], [2, 3]], [None]])
def test_wrong_ids_are_answered_with_what_is_wrong(served: tuple[dict[str, Any], int], ids: Any) -> None:
    names, port = served
    ask(port, "a", [1])
    before = names["states"]["a"]
    assert ask(port, "a", ids, status=400)["error"] and names["states"]["a"] is before
    assert "unhashable" in ask(port, ["a"], [1], status=400)["error"]


def test_clients_that_connect_at_once_all_get_their_place(served: tuple[dict[str, Any], int]) -> None:
    """Where the queue is full a connection is dropped, and tried again a second later."""
    server = eval(START.replace("8000", "0").removesuffix(".serve_forever()\n"), served[0])
    with server, ExitStack() as clients:
        for _ in range(32):     # nobody takes them yet
            clients.enter_context(socket.create_connection(("127.0.0.1", server.server_port), timeout=5))


def test_no_grad_reaches_one_thread_and_a_state_without_it_keeps_its_graph(served: tuple[dict[str, Any], int]) -> None:
    model = served[0]["model"]
    found: list[Any] = []
    with ts.no_grad():
        other = threading.Thread(target=lambda: found.append(model(np.array([[1, 2]]))[1]))
        other.start()
        other.join()
        here = model(np.array([[1, 2]]))[1]
    assert all(part.requires_grad for part in found[0]) and not any(part.requires_grad for part in here)


def test_a_forward_in_eval_changes_neither_the_model_nor_the_state(served: tuple[dict[str, Any], int]) -> None:
    model = served[0]["model"]
    weights = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    with ts.no_grad():
        _, state = model(np.array([[1, 2, 3]]))
        before = [part.numpy().copy() for part in state]
        first, again = (model(np.array([[4, 5]]), state)[0].numpy() for _ in range(2))
    assert np.array_equal(first, again) and model.training is False
    assert all(np.array_equal(part.numpy(), old) for part, old in zip(state, before, strict=True))
    assert all(np.array_equal(value.numpy(), weights[name]) for name, value in model.state_dict().items())


def test_the_page_and_the_code_say_the_same_size() -> None:
    from tinyseq.backends import threads

    assert 1024 * 512 * 1024 == threads.LARGE == 1 << 29 and "2^29" in PAGE and "(1024, 512)\n@ (512, 1024)" in PAGE
