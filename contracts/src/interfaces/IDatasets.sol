// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// What one account, or anybody, may do with a dataset.
struct Licence {
    // For a thousand records read.
    uint64 price;
    // Records that may still be read, each counted for every time; ENDLESS: as many as one likes.
    uint64 left;
    uint40 until;
    // A bit for each purpose (assay/publish/manifest.py has their names); none: any purpose.
    uint16 purposes;
    // Grants so far.
    uint32 number;
    // Revocations so far.
    uint32 epoch;
}

/// One dataset of a job, and what its owner and the client had agreed on when the job was posted.
struct Part {
    uint64 dataset;
    uint64 price;
    // Of the licence: the client's own, or everybody's.
    uint32 number;
    uint32 epoch;
    bool own;
    // Of its verifiers.
    uint32 list;
}

struct Dataset {
    address owner;
    uint64 records;
    // Number of its present list of verifiers; one without names, as number 0 is, admits all.
    uint32 list;
    address keyService;
    // SHA-256 of the manifest's canonical form.
    bytes32 manifest;
    // Over its shards' places, counts and roots, as the data root of a job has it.
    bytes32 root;
    // What it has brought so far.
    uint128 earned;
    address[] owners;
    uint16[] shares;
}

/// What a job owes to its datasets.
struct JobUse {
    address client;
    // Steps that have been paid for.
    uint32 settled;
    // The last segment that has been paid for.
    uint64 cursor;
    // Records that a step reads.
    uint64 eachStep;
    // Records of all its datasets.
    uint64 records;
    uint8 purpose;
    bool refunded;
    // A dataset of it admits some verifiers only.
    bool listed;
    // Held for what is not paid yet.
    uint128 escrow;
    Part[] parts;
}

interface IDatasetsLog {
    event DatasetPublished(
        uint64 indexed dataset,
        address indexed owner,
        bytes cid,
        bytes32 manifest,
        bytes32 root,
        uint64 records,
        address keyService,
        address[] owners,
        uint16[] shares
    );
    /// `who` zero: anybody.
    event LicenceGranted(
        uint64 indexed dataset, address indexed who, uint64 price, uint64 uses, uint64 until, uint16 purposes
    );
    event LicenceRevoked(uint64 indexed dataset, address indexed who);
    /// For jobs that are posted from now on; no names: all.
    event VerifiersAdmitted(uint64 indexed dataset, uint32 list, address[] verifiers);
    event JobLicensed(
        uint64 indexed job, address indexed client, uint64[] datasets, uint64[] prices, uint8 purpose, uint128 locked, uint32[] lists
    );
    event UsePaid(uint64 indexed job, uint64 indexed dataset, uint64 segment, uint128 amount);
    event UseRefunded(uint64 indexed job, uint128 amount);
    event RevenueWithdrawn(uint64 indexed dataset, address indexed owner, uint128 amount);

    error NotJobs(address sender);
    error NoSuchDataset(uint64 dataset);
    error NotOwner(address sender, uint64 dataset);
    error BadShares(uint256 sum);
    error BadLength(string name, uint256 length, uint256 most);
    error BadTerm(string name, uint256 value, uint256 least, uint256 most);
    error NoLicence(uint64 dataset, address who);
    error WrongPurpose(uint64 dataset, uint8 purpose);
    error UsesExhausted(uint64 dataset, uint64 left, uint256 needed);
    error OtherKeyService(uint64 dataset, address keyService);
    error OtherData(uint64 job);
    error DataOverMost(uint256 cost, uint128 most);
    error NoUse(uint64 job);
    error BadList(uint256 index);
    error OtherList(uint64 dataset, uint32 list);
    error TooFewAdmitted(uint256 found, uint256 needed);
    error AlreadyRefunded(uint64 job);
    error JobIsOpen(uint64 job);
    error NothingToCollect(uint64 job);
    error NothingToWithdraw(address who);
    error UnsupportedToken(uint256 expected, uint256 received);
}

/// Datasets of owners, what they are licensed for, and what they earn (docs/protocol.md).
interface IDatasets is IDatasetsLog {
    // ---- owners
    function publish(
        bytes calldata cid,
        bytes32 manifest,
        bytes32 root,
        uint64 records,
        address keyService,
        address[] calldata owners,
        uint16[] calldata shares
    ) external returns (uint64 dataset);
    /// In place of what `who` (zero: anybody) was granted before.
    function grant(uint64 dataset, address who, uint64 price, uint64 uses, uint64 until, uint16 purposes) external;
    /// Nothing more is assigned of a job that rests on it; what is assigned goes on.
    function revoke(uint64 dataset, address who) external;
    function withdraw(uint64 dataset) external;
    /// Who may be drawn to check jobs on it that are posted from now on, in ascending order; none: whoever has a seat.
    function admit(uint64 dataset, address[] calldata verifiers) external;

    // ---- Jobs
    /// `uses`: abi.encode(uint64[] datasets, bytes head, uint8 purpose, uint128 most, uint32[] lists), `head` being what the job's data root is
    /// the hash of and `lists` the lists of verifiers that the client has seen. Returns whether one of them has names.
    function open(uint64 job, bytes calldata uses) external returns (bool listed);
    /// Reverts when a licence that the job rests on is over, or when fewer verifiers than its quorum have seats who are on all of its lists
    /// and are neither its client nor `provider`.
    function need(uint64 job, address provider) external view;

    // ---- anybody
    /// Pays the owners for the segments that have settled since the last time, at most so many of them.
    function collect(uint64 job, uint64 most) external;
    /// Gives back what a closed job has not used, after all of its segments have been paid for.
    function refund(uint64 job) external;

    // ---- views
    function jobs() external view returns (address);
    function datasetCount() external view returns (uint64);
    function dataset(uint64 id) external view returns (Dataset memory);
    function licence(uint64 id, address who) external view returns (Licence memory);
    function useOf(uint64 job) external view returns (JobUse memory);
    function admitted(uint64 id, uint32 list) external view returns (address[] memory);
    /// Who is on the lists of all datasets of a job that have names, in ascending order.
    function verifiersOf(uint64 job) external view returns (address[] memory);
    function revenue(uint64 id, address owner) external view returns (uint128);
}
