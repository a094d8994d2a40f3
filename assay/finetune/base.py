"""The model that a fine-tune starts from: a folder as `save_pretrained` or the hub writes it, with its weights in safetensors files.

Its root is SHA256(0x19 ‖ count u32 ‖ merkle(entries)) over the SHA-256 of each `*.safetensors` file by name, as assay.state hashes entries.
Those digests are what model hubs publish beside their files, so anybody can tell from the job's document which weights were tuned, without
having them. Files of pickles are never opened.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay import merkle
from assay.ids import Digest
from assay.job import MAX_ORIGIN_NAME
from assay.optim import SettingError
from assay.state import entries_root

_CARD = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)


@dataclass(frozen=True)
class Base:
    """`folder` holds config.json and the weights; `name` is what others know the model by; without `licence` it is read from the model
    card (README.md). Raises SettingError."""

    folder: Path | str
    name: str
    licence: str = ""

    def __post_init__(self) -> None:
        folder = Path(self.folder)
        if not folder.is_dir():
            raise SettingError(f"Base: there is no folder {folder}: save_pretrained(folder) writes one, or download the model into it")
        if not any(folder.glob("*.safetensors")):
            raise SettingError(f"Base: {folder} has no *.safetensors; other formats are not opened: save_pretrained(folder) writes it")
        object.__setattr__(self, "folder", folder)
        object.__setattr__(self, "licence", self.licence or _licence(folder))
        for field in ("name", "licence"):
            if not 0 < len(getattr(self, field)) <= MAX_ORIGIN_NAME:
                raise SettingError(f"Base: {field} must have 1 to {MAX_ORIGIN_NAME} characters: Base(folder, name, licence=...)")

    @property
    def files(self) -> dict[str, Digest]:
        """SHA-256 of each file of weights."""
        return {path.name: _sha256(path) for path in sorted(Path(self.folder).glob("*.safetensors"))}

    @property
    def root(self) -> Digest:
        files = self.files
        return merkle.sha256(struct.pack(">BI", 0x19, len(files)), entries_root(files))

    def load(self, kind: Any, **settings: Any) -> Any:
        """The model, of a transformers class `kind` (AutoModelFor…, too): float32, in eval mode, from these files and no others.

        What the files lack, a new head for instance, is drawn from torch's generator (which is seeded for a training file)."""
        model = kind.from_pretrained(self.folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, **settings)
        return model.float().eval()

    def tokenizer(self) -> Any:
        """Of the same folder."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)


def _sha256(path: Path) -> Digest:
    with path.open("rb") as file:
        return Digest(hashlib.file_digest(file, "sha256").digest())


def _licence(folder: Path) -> str:
    """`license:` of the model card's header; empty where there is none."""
    card = folder / "README.md"
    header = _CARD.match(card.read_text("utf-8", "replace")) if card.is_file() else None
    found = re.search(r"^license:\s*['\"]?([^'\"\n]+?)['\"]?\s*$", header[1], re.MULTILINE) if header else None
    return found[1] if found else ""
