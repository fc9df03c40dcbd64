"""Receive webhooks and verify their signatures. Needs `pip install standardwebhooks`.

    python receive.py 9000 whsec_…

The secret is returned by GET /auth/webhook-secret. A webhook may arrive twice; then it has the same
`webhook-id` header. For a receiver on your own machine the server needs OUTBOUND_ALLOW=127.0.0.1
and WEBHOOK_HTTPS_ONLY=false.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError


class Receiver(BaseHTTPRequestHandler):
    secret = ""
    known: set[str] = set()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            event = Webhook(self.secret).verify(body, dict(self.headers))
        except WebhookVerificationError as error:
            self.send_error(400, str(error))
            return
        if self.headers["webhook-id"] not in self.known:
            self.known.add(self.headers["webhook-id"])
            print(event["event"], event["execution_id"], flush=True)
        self.send_response(204)
        self.end_headers()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    Receiver.secret = sys.argv[2]
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
