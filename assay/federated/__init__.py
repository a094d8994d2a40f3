"""Federated jobs: owners train where their data lies, and only sums of their updates leave.

    terms --> adverts --> roster --> dealt shares --> masked updates --> survivors --> agreements --> revealed shares --> sum, record

The protocol is that of Bonawitz et al. (CCS 2017) against a coordinator that lies, on the sparse graph of Bell et al. (CCS 2020),
over integers modulo 2^32 or 2^64: those that the table of operators knows (assay.exact.table: integers wrap). Each owner commits to what it sends
under a tensor root and a signature, so the sum is not the coordinator's word: the record holds everything from which anybody computes it again
(`record.check`).

`client` and `coordinator` are pure machines; `ring` the arithmetic; `robust`, `privacy` and `training` what stands around a round.
docs/federated.md says what each party learns and what is not defended.
"""
