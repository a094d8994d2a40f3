"""What the key service answers to whoever asks where a key is: the key, wrapped as on chain, or the reason why not in plain words."""

from __future__ import annotations

from assay.ids import PeerId
from assay.keyservice.state import JobStage, State
from assay.messages import KeyGrant, KeyRequest, Refusal

SOON = 3
"""Seconds after which it is worth asking again for what is not final or not wrapped yet."""


def answer(state: State, peer: PeerId, request: KeyRequest) -> KeyGrant | Refusal:
    shown = state.shown.get(request.segment)
    if shown is not None and shown.key_id == request.key_id and state.facts.account(peer, (shown.recipient,)) is not None:
        return KeyGrant(key_id=shown.key_id, wrapped=(shown.wrapped,))
    seg = state.facts.segments.get(request.segment)
    if seg is None:
        return Refusal(reason=f"segment {request.segment} is not known here, or not final yet", retry_after=SOON)
    if seg.job not in state.jobs:
        return Refusal(reason=f"job {seg.job} names another key service")
    who = state.facts.account(peer, (seg.provider, *seg.verifiers, state.facts.jobs[seg.job].client))
    if who is None:
        return Refusal(reason=f"you are neither the provider nor a drawn verifier of segment {seg.segment}, nor the job's client")
    mine = [r.wrapped for r in state.released.get(seg.segment, []) if (r.recipient, r.key_id) == (who, request.key_id)]
    if mine:
        return KeyGrant(key_id=request.key_id, wrapped=tuple(mine))
    keys = state.jobs[seg.job]
    if keys.stage is JobStage.REFUSED:
        return Refusal(reason=f"job {seg.job} is refused: {keys.reason}")
    pending = [grant for grant in state.grants.values() if grant.segment == seg.segment and who in grant.recipients]
    if pending:
        return Refusal(reason=pending[0].reason or "the keys are on their way", retry_after=SOON)
    for segment in (seg.segment, seg.parent):
        found = state.checkpoints.get(segment)
        if found is not None and found.bad:
            return Refusal(reason=bad_envelope(found.envelope.publisher))
    return Refusal(reason=f"nothing entitles you to key {request.key_id.hex()[:16]}… in segment {seg.segment} (yet)", retry_after=SOON)


def bad_envelope(publisher: str) -> str:
    return f"the checkpoint key envelope of provider {publisher} does not open to the key it committed to"
