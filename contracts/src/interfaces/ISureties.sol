// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {SegmentState} from "../types/Types.sol";

/// What a key service offers: for each job, at most for one segment of it, and how long it must have to release keys to drawn verifiers.
struct Offered {
    uint96 perJob;
    uint96 each;
    // Seconds.
    uint32 notice;
    // Deposited, and not behind any job.
    uint96 free;
}

/// What stands behind a job.
struct Cover {
    address keeper;
    uint96 left;
    uint96 each;
    // When the rest goes back; 0: nobody has asked for it.
    uint64 endsAfter;
}

/// What key services put up for the keys that they do not release (docs/protocol.md, "Sureties").
interface ISureties {
    event SuretyOffered(address indexed keeper, uint96 perJob, uint96 each, uint32 notice);
    event SuretyDeposited(address indexed keeper, uint96 amount);
    event SuretyWithdrawn(address indexed keeper, uint96 amount);
    event JobVouched(uint64 indexed job, address indexed keeper, uint96 amount, uint96 each);
    event CheckpointContested(uint64 indexed segment, address indexed keeper);
    event CheckpointKeyShown(uint64 indexed segment, bytes32 key);
    event SuretyPaid(uint64 indexed segment, uint64 indexed job, address indexed provider, uint96 amount);
    event SuretyEnding(uint64 indexed job, uint64 endsAfter);
    event SuretyReturned(uint64 indexed job, address indexed keeper, uint96 amount);

    error BadTerm(string name, uint256 value, uint256 least, uint256 most);
    error ZeroAmount();
    error UnsupportedToken(uint256 expected, uint256 received);
    error InsufficientSurety(address keeper, uint96 free, uint96 needed);
    error NotKeyService(address sender, address keyService);
    error AlreadyVouched(uint64 job);
    error NotVouched(uint64 job);
    error ShortNotice(uint32 window, uint32 notice);
    error NoRedraw(uint64 job);
    error JobIsOver(uint64 job);
    error JobIsOpen(uint64 job);
    error WrongState(uint64 segment, SegmentState state);
    error TooLate(uint64 notAfter, uint64 now_);
    error TooEarly(uint64 notBefore, uint64 now_);
    error AlreadyContested(uint64 segment);
    error NotContested(uint64 segment);
    error IsContested(uint64 segment);
    error OtherKey(uint64 segment);
    error NotWithheld(uint64 segment);
    error IsSeized(uint64 segment);
    error AlreadyPaid(uint64 segment);
    error NothingLeft(uint64 job);

    // ---- key services
    /// Of jobs that are vouched for from now on.
    function offer(uint96 perJob, uint96 each, uint32 notice) external;
    function deposit(uint96 amount) external;
    function withdraw(uint96 amount) external;
    /// The job's key service has all keys of its data: from now on it pays for segments whose verifiers it keeps them from.
    function vouch(uint64 job) external;
    /// The envelope of the segment's checkpoint does not open: nothing is released for it, and nothing paid, unless its key is shown.
    function object(uint64 segment) external;

    // ---- anybody
    /// The key of a contested checkpoint, in the clear. `checkpoint` is the SHA-256 of its binary CID.
    function show(uint64 segment, bytes32 checkpoint, bytes32 key) external;
    /// Pays the provider of a segment whose verifiers' keys were withheld in its last round.
    function claim(uint64 segment) external;
    /// What is left behind a job that is closed: asked for with the first call, given back with one a challenge window later.
    function giveBack(uint64 job) external;

    // ---- views
    function offered(address keeper) external view returns (Offered memory);
    function coverOf(uint64 job) external view returns (Cover memory);
}
