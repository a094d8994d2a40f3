"""Honest hardware: a claim of memory and speed is proven by work that only hardware of that size does in that time, and that anybody can check.

    claim      so many bytes of memory, in `levels` of `lanes` blocks; and so many exact products of matrices of `side` in its midst
    seed       from the hash of a block of the chain, the account and the claim: nobody can begin before the block is there
    fill       each block is mixed from the one before it in its lane and from REFS blocks of earlier levels, which ones only the mixing tells
               (assay.proving.held): who keeps less than all of it computes most of it again, many times
    products   a chain of int8 products, each with a matrix that lies somewhere in that memory: only the product before tells where
               (assay.proving.products)
    answer     roots of all levels and of all states of the chain, in a transaction: the time of its block is when the work was done
               (assay.proving.claims)
    opening    of what a later block draws: blocks with those that they were mixed from, rows of products; checked in a second (assay.proving.proof)

What it proves: when the answer's block came, somebody who answers for the account had done the products since the seed's block, and had had
at hand more than three quarters of the memory. What it does not prove is said in docs/hardware.md.
"""
