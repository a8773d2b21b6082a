"""The demo: `/demo`, an editor for everybody who has its address. The sources are in examples/editor; the text is a document here."""

from __future__ import annotations

import json
from typing import Final

from ds_sync.server.pages.pages import answer_closed, read_files
from ds_sync.server.responses import Scope, Send
from ds_sync.server.streams import raw_path

MOUNT: Final = "/demo"

POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'"
)
"""The editor makes its styles as it goes."""

FILES: Final = {"": "demo.html", "demo.js": "demo.js", "demo.css": "demo.css", "licenses.txt": "demo.licenses.txt"}
"""By what follows the mount."""


class Demo:
    """Answers the requests at and below `/demo`."""

    def __init__(self) -> None:
        self._files = read_files(tuple(FILES.values()))

    async def serve(self, scope: Scope, send: Send) -> None:
        """Answer with a file."""
        name = raw_path(scope)[len(MOUNT) :].removeprefix(b"/").decode("latin-1")
        if scope["method"] not in ("GET", "HEAD") or name not in FILES:
            status, code = (404, "NOT_FOUND") if name not in FILES else (405, "METHOD_NOT_ALLOWED")
            refusal = {"error": {"code": code, "message": "the demo is a page to be read"}}
            await answer_closed(scope, send, status, b"application/json", json.dumps(refusal).encode(), POLICY)
            return
        file = self._files[FILES[name]]
        await answer_closed(scope, send, 200, file.kind, file.body, POLICY)
