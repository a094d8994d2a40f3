"""An independent check of a job from the chain and IPFS alone: nothing that a node of the network says of itself is read.

record      what is read: every event of the contracts with the call that caused it, hashes of blocks, what the contract holds
findings    what a check says: it holds, it does not, or it could not be made, and why
stakes      seats and free stake at any moment, from events
books       jobs, segments and rounds as the events leave them
hand, committee, ends   one event after the other: each is what the rules of docs/protocol.md make of those before it
auditor     all of it, over a record
documents   the job's documents as their CIDs give them
step        one step of it, and nothing else
bases       frozen tensors that several checks share
replays     links computed again, as far as the caller holds keys
"""
