"""Canaries that only the victim may see: a word, a colour, secrets. Anywhere else they have leaked."""

from __future__ import annotations

import hashlib
import io
import secrets
import warnings
import zipfile
from dataclasses import dataclass, field

from PIL import Image

PASSWD = b"root:x:0:0:"  # content of a file that every Unix has
NEAR = 3  # tolerance of a colour, of 255: encoders and resizing round
SHARE = 0.2  # share of the pixels


@dataclass
class Canaries:
    """`word` stands in the victim's prompts, names and metadata, and in planted texts; `colour` fills the
    pictures. `secrets` are keys and the like, added as they are made. `name` begins names of files, and is
    no secret: the attacker knows it, and the ids of everything."""

    name: str = field(default_factory=lambda: "private" + secrets.token_hex(8))
    word: str = field(default_factory=lambda: "canary" + secrets.token_hex(8))
    colour: tuple[int, int, int] = field(
        default_factory=lambda: (91 + secrets.randbelow(50), 181 + secrets.randbelow(50), 31)
    )
    secrets: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """SHA-256 of the picture: the name of the file in ComfyUI's input folder."""
        return hashlib.sha256(self.picture()).hexdigest()

    def picture(self, *, size: int = 16) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (size, size), self.colour).save(buffer, "PNG")
        return buffer.getvalue()

    def found_in(self, content: bytes) -> str | None:
        """Describes the canary found in the data; None if there is none."""
        if self.word.encode() in content:
            return "the victim's word"
        if PASSWD in content:
            return "/etc/passwd"
        if any(secret.encode() in content for secret in self.secrets):
            return "a secret of the victim"
        if content[:4] == b"PK\x03\x04":
            return self._found_in_archive(content)
        return "the victim's picture" if self._is_picture(content) else None

    def _found_in_archive(self, content: bytes) -> str | None:
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                found = [self.found_in(archive.read(name)) for name in archive.namelist()[:20]]
        except (zipfile.BadZipFile, RuntimeError):
            return None
        return next((each for each in found if each), None)

    def _is_picture(self, content: bytes) -> bool:
        """Whether a large part of a picture has the colour."""
        if not content.startswith((b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8")):
            return False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(content)) as opened:
                    small = opened.convert("RGB").resize((16, 16), Image.Resampling.NEAREST)
        except (OSError, ValueError, Image.DecompressionBombError):
            return False
        raw = small.tobytes()
        pixels = [raw[i : i + 3] for i in range(0, len(raw), 3)]
        same = sum(all(abs(a - b) <= NEAR for a, b in zip(p, self.colour, strict=True)) for p in pixels)
        return same >= SHARE * len(pixels)


def own_picture() -> bytes:
    """A picture of the attacker's, in another colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(buffer, "PNG")
    return buffer.getvalue()
