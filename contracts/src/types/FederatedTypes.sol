// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// What the money of federated jobs speaks of. Field order is that of the messages in assay/federated/money.py.

/// How the shares were found. The contract pays by the shares; of the rule it knows what can be seen in them.
enum Rule {
    EQUAL,
    RECORDS,
    WORTH
}

/// A federated job, as its host posts it. All of it but its digest stays off chain.
struct FederatedTerms {
    /// Of program, schedule, first state and rounds (assay.federated.training.job_of).
    bytes32 job;
    /// Who may strike one owner a round, whose update it was shown; zero: nobody.
    address auditor;
    /// In the order in which a round's terms name them.
    address[] owners;
    uint32[] shares;
    Rule rule;
    /// Digest of the valuation (assay.worth.report.Worth) that the shares follow from; zero by another rule.
    bytes32 worth;
    uint32 rounds;
    /// Owners without whose updates there is no sum.
    uint32 minimum;
    /// Of a number of a row, 32 or 64, and how many a row has.
    uint8 bits;
    uint64 length;
    /// For a round, to all owners together.
    uint96 pay;
    /// Of the host: lost with a false sum.
    uint96 bond;
    /// Seconds in which a round can be challenged.
    uint32 window;
    uint64 deadline;
}

/// A round's sum: `rows` are the owners' rows without the masks that are not between those who are counted, so that they add up to `total`.
struct Sum {
    /// Digest of the round's terms, which name the model that it began with.
    bytes32 terms;
    /// Tensor roots. A row of zero: that owner is not counted.
    bytes32 total;
    bytes32[] rows;
}

/// The chunk of a row with one number, and the path to the root over the row's chunks.
struct Piece {
    bytes chunk;
    bytes32[] path;
}

struct FederatedJob {
    bytes32 terms;
    address host;
    uint40 until;
    uint32 closed;
    uint32 settled;
    bool broken;
    bool ended;
    uint128 held;
}

struct FederatedRound {
    bytes32 sum;
    /// A bit for each owner that is counted.
    uint256 counted;
    /// A bit for each of them that says the total is false.
    uint256 objected;
    uint40 until;
    /// Place of the owner that was struck, plus one.
    uint16 struck;
    bool settled;
}

/// Rows that a challenger has shown so far, whose pieces do not fit one transaction.
struct Added {
    uint64 sum;
    uint32 rows;
}
