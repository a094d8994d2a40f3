"""Key services that do not release what they must, or release something else."""

from __future__ import annotations

import msgspec

from assay.bundles import is_bundle
from assay.chain import Committed, ContestCheckpoint, Drawn
from assay.keyservice.machine import KeyServiceMachine
from assay.merkle import sha256
from assay.record_keys import RecordKeys, encode
from assay.runtime import AnyEffect, AnyEvent, ChainSeen, Send
from assay.sim.cast import Part, Self, honest_hands, key_service_config
from assay.sim.hands import Hands
from assay.tasks import KeysWrapped, WrapKeys


class Withholds(KeyServiceMachine):
    """Is never heard of."""

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        return []


class WithholdsFromVerifiers(KeyServiceMachine):
    """Gives the provider its keys and the drawn verifiers none."""

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        if isinstance(event, ChainSeen) and isinstance(event.event, Drawn):
            return super().handle(ChainSeen(event=msgspec.structs.replace(event.event, verifiers=())), now, seed)
        return super().handle(event, now, seed)


class Slanders(WithholdsFromVerifiers):
    """Gives the drawn verifiers no keys, and says of each provider's checkpoint that its envelope does not open."""

    def handle(self, event: AnyEvent, now: int, seed: bytes) -> list[AnyEffect]:
        effects = super().handle(event, now, seed)
        if isinstance(event, ChainSeen) and isinstance(event.event, Committed):
            segment = event.event.segment
            effects.append(Send(key=f"contest:{segment}", call=ContestCheckpoint(segment=segment)))
        return effects


class GivesWrongKeys(Hands):
    """Wraps other keys than those that were asked for."""

    def wrap_keys(self, task: WrapKeys) -> KeysWrapped:
        right = super().wrap_keys(task)
        people = dict(task.recipients)
        wrong = [
            msgspec.structs.replace(release, wrapped=self.keys.wrap(sha256(b"wrong", release.key_id), people[release.recipient]))
            for release in right.releases
        ]
        return KeysWrapped(releases=tuple(wrong), bad=right.bad)


class GivesFalseRecords(Hands):
    """Gives drawn verifiers keys of the records that they are to read, as many and in the form that is due, and none of them true."""

    def wrap_keys(self, task: WrapKeys) -> KeysWrapped:
        right, people = super().wrap_keys(task), dict(task.recipients)
        if task.drawn is None:
            return right
        false = []
        for release in right.releases:
            bundle = RecordKeys({index: sha256(b"false", index.to_bytes(4, "big")) for index in range(64)})
            wrapped = self.keys.wrap(encode(bundle), people[release.recipient]) if is_bundle(release.wrapped) else release.wrapped
            false.append(msgspec.structs.replace(release, wrapped=wrapped if release.wrapped else b""))
        return KeysWrapped(releases=tuple(false), bad=right.bad)


def _honest(me: Self) -> KeyServiceMachine:
    return KeyServiceMachine(key_service_config(me))


WITHHOLDS = Part(lambda me: Withholds(key_service_config(me)), honest_hands)
WITHHOLDS_FROM_VERIFIERS = Part(lambda me: WithholdsFromVerifiers(key_service_config(me)), honest_hands)
SLANDERS = Part(lambda me: Slanders(key_service_config(me)), honest_hands)
GIVES_FALSE_RECORDS = Part(_honest, lambda me: GivesFalseRecords(me.chain, me.keys, me.options))
GIVES_WRONG_KEYS = Part(_honest, lambda me: GivesWrongKeys(me.chain, me.keys, me.options))
