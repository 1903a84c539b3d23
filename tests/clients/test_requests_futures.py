"""requests-futures sends its requests from a backend; errors of requests keep what they say."""

from __future__ import annotations

import http.server
import threading
from typing import TYPE_CHECKING

import pytest
import requests
from requests_futures.sessions import FuturesSession

if TYPE_CHECKING:
    from collections.abc import Iterator

    import taskrun


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/here" else 404)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url(ex: taskrun.Executor) -> Iterator[str]:
    ex.submit(abs, 1).result()  # before there is a thread that `fork` would warn of
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.filterwarnings("ignore::taskrun.UnsafeForkWarning")  # the server is a thread of this process
def test_pages_and_errors_arrive(ex: taskrun.Executor, url: str) -> None:
    with FuturesSession(executor=ex) as session:
        pages = [session.get(f"{url}/{path}") for path in ("here", "nowhere")]
        assert [page.result().text for page in pages] == ["hello", "hello"]
        with pytest.raises(requests.HTTPError, match=r"^404 Client Error: Not Found for url: http://127"):
            pages[1].result().raise_for_status()
        refused = session.get("http://127.0.0.1:1/").exception()
    assert isinstance(refused, requests.ConnectionError)
    assert str(refused).startswith("HTTPConnectionPool(host='127.0.0.1', port=1): Max retries exceeded with url: /")
