// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// What owners get for records of theirs that a dispute had to show in the clear (docs/economics.md, "A record that a dispute shows").
interface IShowings {
    /// Of one record that a dispute shows, for jobs with a number above `afterJob`.
    event RecordPriced(uint64 indexed dataset, uint64 price, uint64 afterJob);
    event ShowingPaid(uint64 indexed dispute, uint64 indexed dataset, uint128 amount);
    event ShowingWithdrawn(uint64 indexed dataset, address indexed owner, uint128 amount);

    error NotOwner(address sender, uint64 dataset);
    error NothingOwed(uint64 dispute);
    error AlreadyClaimed(uint64 dispute);
    error NothingToWithdraw(address who);

    /// The owner's: what a record costs that a dispute shows, for jobs that are posted from now on. Without it as much as a thousand reads.
    function setPrice(uint64 dataset, uint64 price) external;
    /// Pays the owners of the records that a paid dispute has shown. `head`: what the job's data root is the hash of; anything for a job on one dataset.
    function claim(uint64 dispute, bytes calldata head) external;
    function withdraw(uint64 dataset) external;

    /// The most that owners ask for so many records of a segment's job: as if all were of its dearest dataset; 0 where it rests on none. Never reverts.
    function asked(uint64 segment, uint32 count) external view returns (uint128);
    /// Of one record of a dataset that a dispute about a job shows; the job rests on it at `licensed` for a thousand reads.
    function priceOf(uint64 dataset, uint64 job, uint64 licensed) external view returns (uint64);
    function revenue(uint64 dataset, address owner) external view returns (uint128);
    function claimed(uint64 dispute) external view returns (bool);
    function jobs() external view returns (address);
}
