"""What the parts of the key service's machine share."""

from __future__ import annotations

from assay.keyservice.state import Config, State
from assay.runtime import AnyEffect, Note


class Base:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.state = State()
        self._out: list[AnyEffect] = []
        self._now = 0

    def _do(self, effect: AnyEffect) -> None:
        self._out.append(effect)

    def _note(self, topic: str, text: str, **data: str | int | bool) -> None:
        self._out.append(Note(topic=topic, text=text, data=data))
