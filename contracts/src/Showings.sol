// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {Gather} from "./dispute/Gather.sol";
import {Dataset, IDatasets, JobUse, Part} from "./interfaces/IDatasets.sol";
import {IDisputeGame} from "./interfaces/IDisputes.sol";
import {IJobs} from "./interfaces/IJobs.sol";
import {IShowings} from "./interfaces/IShowings.sol";
import {IStakes} from "./interfaces/IStakes.sol";
import {Dispute, Outcome, Shown} from "./types/DisputeTypes.sol";

/// Records that a dispute shows in the clear are paid for.
///
/// Disputes notes which places of the training's sequence of records it has shown. When it is paid, it sets aside what this contract asks for
/// them, at most a part of what the loser has lost, as a credit of this contract. `claim` draws that and credits the owners of those records: in a job on
/// one dataset all are its; in one on several the order of examples, which the job's data root binds, says whose each place is. What the dearest dataset
/// would have cost more than the records' own is the winner's again, where that is the challenger; else it is burnt.
///
/// The price is one that was set before the job was posted, so nobody can raise it in view of a dispute. It reads Jobs, which does not know it, and is
/// deployed at the address that follows from its code and Jobs' (CREATE2).
///
/// Money: it holds, for every dataset, what it has earned here less what its owners have taken. Shares are rounded down; what that leaves over stays.
contract Showings is IShowings, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using Checkpoints for Checkpoints.Trace160;

    address private constant BURN = 0x000000000000000000000000000000000000dEaD;
    uint256 private constant SHARES = 10_000;

    IJobs private immutable _jobs;
    IStakes private immutable _stakes;
    IERC20 private immutable _token;
    mapping(uint64 dispute => bool) public claimed;
    /// Price and one, by the number of jobs that there were when it was set.
    mapping(uint64 dataset => Checkpoints.Trace160) private _prices;
    mapping(uint64 dataset => uint128) private _earned;
    mapping(uint64 dataset => mapping(address owner => uint128)) private _taken;

    constructor(address jobs_) {
        _jobs = IJobs(jobs_);
        _stakes = IStakes(_jobs.stakes());
        _token = IERC20(_stakes.token());
    }

    // ---- owners --------------------------------------------------------------------------------------------------------------

    function setPrice(uint64 dataset, uint64 price) external {
        if (_datasets().dataset(dataset).owner != msg.sender) revert NotOwner(msg.sender, dataset);
        uint64 count = _jobs.jobCount();
        _prices[dataset].push(count, uint160(price) + 1);
        emit RecordPriced(dataset, price, count);
    }

    function withdraw(uint64 dataset) external nonReentrant {
        uint128 amount = revenue(dataset, msg.sender);
        if (amount == 0) revert NothingToWithdraw(msg.sender);
        _taken[dataset][msg.sender] += amount;
        emit ShowingWithdrawn(dataset, msg.sender, amount);
        _token.safeTransfer(msg.sender, amount);
    }

    // ---- anybody -------------------------------------------------------------------------------------------------------------

    function claim(uint64 dispute, bytes calldata head) external nonReentrant {
        if (claimed[dispute]) revert AlreadyClaimed(dispute);
        IDisputeGame disputes = IDisputeGame(_jobs.disputes());
        Shown memory shown = disputes.shownIn(dispute);
        if (shown.owed == 0) revert NothingOwed(dispute);
        claimed[dispute] = true;
        Dispute memory d = disputes.dispute(dispute);
        uint64 job = _jobs.segment(d.segment).job;
        Part[] memory parts = _datasets().useOf(job).parts;
        // Of disputes that are not claimed yet, too.
        if (disputes.credit(address(this)) > 0) disputes.withdraw();
        uint256 rest = shown.owed - _credit(dispute, job, parts, _counts(job, parts, shown, head), shown.owed);
        if (rest > 0) _token.safeTransfer(d.outcome == Outcome.ASSERTER_LOST ? d.challenger : BURN, rest);
    }

    /// How many of the records that were shown are each dataset's.
    function _counts(uint64 job, Part[] memory parts, Shown memory shown, bytes calldata head)
        private
        view
        returns (uint256[] memory counts)
    {
        counts = new uint256[](parts.length);
        if (parts.length == 1) {
            counts[0] = shown.count;
            return counts;
        }
        Gather.Data memory data = Gather.open(head, _jobs.job(job).datasetRoot);
        uint256[] memory ends = new uint256[](parts.length);
        uint256 end = 0;
        for (uint256 i = 0; i < parts.length; ++i) {
            end += _datasets().dataset(parts[i].dataset).records;
            ends[i] = end;
        }
        for (uint256 i = 0; i < shown.count; ++i) {
            uint256 place = uint256(shown.first) + i;
            uint64 record = Gather.permute(data.order, uint64(place / data.records), data.records, uint64(place % data.records));
            uint256 k = 0;
            while (record >= ends[k]) ++k;
            ++counts[k];
        }
    }

    /// What was set aside, in proportion where it does not suffice.
    function _credit(uint64 dispute, uint64 job, Part[] memory parts, uint256[] memory counts, uint256 owed) private returns (uint128 sum) {
        uint256 all = 0;
        for (uint256 i = 0; i < parts.length; ++i) {
            counts[i] *= priceOf(parts[i].dataset, job, parts[i].price);
            all += counts[i];
        }
        for (uint256 i = 0; i < parts.length; ++i) {
            uint128 amount = uint128(all > owed ? owed * counts[i] / all : counts[i]);
            if (amount == 0) continue;
            sum += amount;
            _earned[parts[i].dataset] += amount;
            emit ShowingPaid(dispute, parts[i].dataset, amount);
        }
    }

    // ---- look-up -------------------------------------------------------------------------------------------------------------

    function _datasets() private view returns (IDatasets) {
        return IDatasets(_stakes.datasets());
    }

    function asked(uint64 segment, uint32 count) external view returns (uint128) {
        if (address(_datasets()) == address(0)) return 0;
        uint64 job = _jobs.segment(segment).job;
        try _datasets().useOf(job) returns (JobUse memory use) {
            uint64 dearest = 0;
            for (uint256 i = 0; i < use.parts.length; ++i) {
                uint64 price = priceOf(use.parts[i].dataset, job, use.parts[i].price);
                if (price > dearest) dearest = price;
            }
            return uint128(dearest) * count;
        } catch {
            return 0;
        }
    }

    function priceOf(uint64 dataset, uint64 job, uint64 licensed) public view returns (uint64) {
        uint160 found = _prices[dataset].upperLookup(job - 1);
        return found == 0 ? licensed : uint64(found - 1);
    }

    function revenue(uint64 dataset, address owner) public view returns (uint128) {
        Dataset memory d = _datasets().dataset(dataset);
        for (uint256 i = 0; i < d.owners.length; ++i) {
            if (d.owners[i] == owner) return uint128(uint256(_earned[dataset]) * d.shares[i] / SHARES) - _taken[dataset][owner];
        }
        return 0;
    }

    function jobs() external view returns (address) {
        return address(_jobs);
    }
}
