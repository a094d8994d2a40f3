"""Which envelopes of a job's document are opened for it, and under whose name.

What the client sealed itself is bound to its account. A shard of a published dataset is bound to its owner and to the dataset's root, and
is opened for a job if the contract found it licensed for that dataset when it was posted (JobLicensed), and if the job's shards are the
dataset's, by its root on chain. A document alone entitles to nothing: it may name what it likes and copy any envelope.

An owner who runs the key service on its own folder gives its calls of Datasets to this node to send, as orders, since one account's
transactions come from one process.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET

from assay import merkle, reads, shard, threshold
from assay.chain import (
    AdmitVerifiers,
    ClaimShowing,
    CollectUse,
    DatasetPublished,
    DepositSurety,
    GrantLicence,
    JobLicensed,
    OfferSurety,
    PriceRecords,
    PublishDataset,
    RevokeLicence,
    ShowingOwed,
    Terms,
    WithdrawRevenue,
    WithdrawShowings,
    WithdrawSurety,
)
from assay.codec import decode
from assay.ids import JobId, address
from assay.job import DatasetRef, JobSpec, data_head, data_root, shard_items
from assay.keyservice.adopting import Adopting
from assay.keyservice.showing import wrap
from assay.keyservice.state import Dataset, Envelope, JobStage
from assay.runtime import Do, Failed, IllegalEvent, Result, Send, Sent
from assay.tasks import JobLoaded, LoadJob

OwnerCall = (
    PublishDataset | GrantLicence | RevokeLicence | AdmitVerifiers | CollectUse | WithdrawRevenue | OfferSurety | DepositSurety | WithdrawSurety
    | PriceRecords | ClaimShowing | WithdrawShowings
)  # fmt: skip
SEND = "send-"
"""An order that sends a call: this, and its canonical form in hex."""
HOLD = "hold-"
"""An order to keep shares with a first key holder: this, and its account."""
UNLICENSED = "its document names datasets of others, and the contract has found no licence of it"


class Licensed(Adopting):
    def _refuse(self, job: JobId, reason: str) -> None:
        raise NotImplementedError

    def _ordered(self, order: str) -> None:
        kinds: Any = OwnerCall
        try:
            if order.startswith(HOLD):
                return self._hold(address(order.removeprefix(HOLD)))
            call = decode(bytes.fromhex(order.removeprefix(SEND)), kinds)
        except ValueError:  # Malformed is one
            return self._note("order", f"a key service does not know the order {order[:80]!r}")
        self.state.orders += 1
        self._do(Send(key=f"order:{self.state.orders}", call=call))

    def _order_result(self, event: Result) -> None:
        match event:
            case Sent():
                self._note("order", "the owner's call is mined")
            case Failed(error=error):
                self._note("order", f"the owner's call was not taken: {error}", reason=error)
            case _:
                raise IllegalEvent(f"{type(event).__name__} of {event.key!r} has no place here")

    def _dataset_event(self, event: DatasetPublished | JobLicensed | ShowingOwed) -> None:
        match event:
            case ShowingOwed():
                self._showing(event)
            case DatasetPublished():
                known = Dataset(event.owner, event.root, event.key_service, event.cid, event.manifest)
                self.state.datasets[event.dataset] = known
                self._mirror(event.dataset, known)
            case JobLicensed(job=job):
                self.state.licensed[job] = event.datasets
                if job in self.state.jobs and self.state.jobs[job].reason == UNLICENSED:  # its document was here before this event
                    self.state.jobs[job].reason = ""
                    self._do(Do(key=f"load:{job}", task=LoadJob(job=job, spec=self.state.facts.jobs[job].terms.spec)))

    def _showing(self, event: ShowingOwed) -> None:
        """A dispute over data that this node keeps the keys of has shown records, and its loser's money for them is set aside: claimed for their
        owners, whoever they are. Told while the dispute is known (assay.facts forgets it when it is paid)."""
        dispute = self.state.facts.disputes.get(event.dispute)
        seg = self.state.facts.segments.get(dispute.segment) if dispute is not None else None
        named = self.state.licensed.get(seg.job, ()) if seg is not None else ()
        if seg is None or not any(self.state.datasets[one].key_service == self.config.account for one in named if one in self.state.datasets):
            return
        text = f"dispute {event.dispute} has shown records of job {seg.job}'s data on chain; {event.amount} are set aside for their owners"
        self._note("shown", text, dispute=event.dispute, job=seg.job, amount=event.amount)
        head = self.state.heads.get(seg.job, b"")
        if len(named) == 1 or head:
            self._do(Send(key=f"showing:{event.dispute}", call=ClaimShowing(dispute=event.dispute, head=head)))

    def _showing_result(self, dispute: str, event: Result) -> None:
        match event:
            case Sent():
                pass
            case Failed(error=error):  # its owner, or anybody, may have been first
                self._note("shown", f"dispute {dispute}: the money for the records that it has shown was not claimed: {error}", reason=error)
            case _:
                raise IllegalEvent(f"{type(event).__name__} of {event.key!r} has no place here")

    def _loaded(self, job: JobId, loaded: JobLoaded) -> None:
        facts, keys, spec = self.state.facts.jobs[job], self.state.jobs[job], loaded.spec
        if loaded.spec_digest != facts.terms.spec_digest:
            return self._refuse(job, "its document is not the one the contract names: the client's fault")
        try:
            threshold.check_document(spec)
        except threshold.BadEnvelope as error:
            return self._refuse(job, f"its keys: {error}: the client's fault")
        if not self._is_for(spec) or spec.key_service != facts.terms.key_service:
            return self._refuse(job, "its document names another key service, or another encryption key of this one: the client's fault")
        if spec.published is not UNSET and job not in self.state.licensed:
            keys.reason = UNLICENSED
            return self._note("waiting", f"job {job}: {UNLICENSED}", job=job)
        if problem := self._unreadable(spec, facts.terms):
            return self._refuse(job, f"{problem}: the client's fault")
        shards = self._shards(job, spec)
        if isinstance(shards, str):
            return self._refuse(job, f"{shards}: the client's fault")
        keys.initial = Envelope(spec.state.key_id, spec.state.envelope, facts.client)
        keys.shards, keys.reading = shards, reads.reading(spec)
        keys.frozen = [Envelope(ref.key_id, ref.envelope, facts.client) for ref in spec.frozen_blobs]
        if spec.published is not UNSET and len(spec.published) > 1:
            self.state.heads[job] = data_head(spec.dataset, spec.order, spec.batch)
        keys.stage = JobStage.CHECKING
        self._do(Do(key=f"envelopes:{job}", task=wrap([keys.initial, *keys.shared])))

    @staticmethod
    def _unreadable(spec: JobSpec, terms: Terms) -> str:
        """Why drawn verifiers cannot be given the keys of the records that they read; empty when they can."""
        if problem := reads.problem(spec):
            return problem
        p = terms.params
        found = reads.most(reads.reading(spec), terms.segment_steps, p.links, p.redraws + 1)
        if found <= reads.MOST_READ:
            return ""
        return (
            f"the links that are drawn of a segment read up to {found} records, and a key service releases the keys of {reads.MOST_READ}: "
            "take smaller micro-batches, or draw fewer links"
        )

    def _is_for(self, spec: JobSpec) -> bool:
        """Whether its keys are wrapped to this node, or shared with it."""
        told = spec.key_holders.members if spec.key_holders is not None else ()
        named = [(spec.key_service, spec.key_service_key), *((one.account, one.encryption_key) for one in told)]
        return (self.config.account, self.config.encryption_key) in named

    def _shards(self, job: JobId, spec: JobSpec) -> list[Envelope] | str:
        """The envelopes of the shards, or why they are not opened."""
        facts = self.state.facts.jobs[job]
        if spec.published is UNSET:
            return [Envelope(ref.sealed.key_id, ref.sealed.envelope, facts.client) for ref in spec.dataset.shards]
        if tuple(used.dataset for used in spec.published) != self.state.licensed[job]:
            return "its document names other datasets than those that it is licensed for"
        try:
            shard.check_dataset(spec.dataset)
        except shard.BadShard as error:
            return str(error)
        if data_root(spec.dataset, spec.order, spec.batch) != facts.terms.dataset_root:
            return "the data of its document are not those that the contract names"
        if sum(used.shards for used in spec.published) != len(spec.dataset.shards):
            return "its shards are not those of the datasets that it names"
        envelopes: list[Envelope] = []
        for used in spec.published:
            known = self.state.datasets.get(used.dataset)
            if known is None or known.key_service != spec.key_service:
                return f"dataset {used.dataset} names another key service"
            shards = spec.dataset.shards[len(envelopes) : len(envelopes) + used.shards]
            part = DatasetRef(name=spec.dataset.name, fields=spec.dataset.fields, shards=shards)
            if merkle.root_of(shard_items(part)) != known.root:
                return f"its shards are not those of dataset {used.dataset}"
            envelopes += [Envelope(ref.sealed.key_id, ref.sealed.envelope, known.owner, known.root) for ref in shards]
        return envelopes
