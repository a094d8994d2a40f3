// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Dataset, IDatasets, JobUse, Licence, Part} from "./interfaces/IDatasets.sol";
import {IJobs} from "./interfaces/IJobs.sol";
import {IStakes} from "./interfaces/IStakes.sol";
import {Job, Segment, SegmentState} from "./types/Types.sol";

/// Datasets, licences and what owners earn (interfaces/IDatasets.sol). Jobs asks it when a job that names datasets is posted, and when a
/// range of one is assigned; it asks Jobs which segments have settled. So a settlement costs what it costs without datasets.
///
/// Money: for every job that is not refunded the contract holds `escrow`; for every dataset what it has earned, less what its owners have
/// taken. What is due for a dataset follows from the number of settled steps alone, so nothing is paid twice, and what is left in the
/// escrow is what the steps that did not settle would have cost. Shares are rounded down; what that leaves over stays here.
contract Datasets is IDatasets, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    uint256 private constant PRICED = 1000;
    uint256 private constant SHARES = 10_000;
    uint256 private constant MOST_OWNERS = 32;
    uint256 private constant MOST_DATASETS = 16;
    uint256 private constant MOST_CID = 64;
    uint256 private constant MOST_ADMITTED = 64;
    uint64 private constant ENDLESS = type(uint64).max;
    /// Places in what a data root is the hash of (assay/job.py: data_head).
    uint256 private constant HEAD_BATCH = 33;
    uint256 private constant HEAD_RECORDS = 37;
    uint256 private constant HEAD_ROOT = 49;
    uint256 private constant HEAD_FIELDS = 81;

    IJobs private immutable _jobs;
    IERC20 private immutable _token;
    IStakes private immutable _stakes;

    uint64 public datasetCount;
    mapping(uint64 id => Dataset) private _datasets;
    mapping(uint64 id => mapping(address who => Licence)) private _licences;
    mapping(uint64 job => JobUse) private _uses;
    /// What an owner has taken.
    mapping(uint64 id => mapping(address owner => uint128)) private _taken;
    /// Lists are not changed, so a job keeps those that it was posted under.
    mapping(uint64 id => mapping(uint32 list => address[])) private _admitted;

    constructor(address jobs_) {
        _jobs = IJobs(jobs_);
        _token = IERC20(_jobs.token());
        _stakes = IStakes(_jobs.stakes());
    }

    // ---- owners --------------------------------------------------------------------------------------------------------------

    function publish(
        bytes calldata cid,
        bytes32 manifest,
        bytes32 root,
        uint64 records,
        address keyService,
        address[] calldata owners,
        uint16[] calldata shares
    ) external returns (uint64 id) {
        if (cid.length == 0 || cid.length > MOST_CID) revert BadLength("cid", cid.length, MOST_CID);
        if (owners.length == 0 || owners.length > MOST_OWNERS) revert BadLength("owners", owners.length, MOST_OWNERS);
        if (shares.length != owners.length) revert BadLength("shares", shares.length, owners.length);
        if (records == 0 || records > type(uint40).max) revert BadTerm("records", records, 1, type(uint40).max);
        id = ++datasetCount;
        if (owners[0] != msg.sender) revert NotOwner(msg.sender, id);
        _checkShares(owners, shares);
        Dataset storage d = _datasets[id];
        (d.owner, d.records, d.keyService) = (msg.sender, records, keyService);
        (d.manifest, d.root, d.owners, d.shares) = (manifest, root, owners, shares);
        emit DatasetPublished(id, msg.sender, cid, manifest, root, records, keyService, owners, shares);
    }

    function _checkShares(address[] calldata owners, uint16[] calldata shares) private pure {
        uint256 sum;
        for (uint256 i = 0; i < owners.length; ++i) {
            if (owners[i] == address(0) || shares[i] == 0) revert BadShares(i);
            for (uint256 k = 0; k < i; ++k) {
                if (owners[k] == owners[i]) revert BadShares(i);
            }
            sum += shares[i];
        }
        if (sum != SHARES) revert BadShares(sum);
    }

    function grant(uint64 id, address who, uint64 price, uint64 uses, uint64 until, uint16 purposes) external {
        _needOwner(id);
        if (until < block.timestamp || until > type(uint40).max) revert BadTerm("until", until, block.timestamp, type(uint40).max);
        if (uses == 0) revert BadTerm("uses", 0, 1, ENDLESS);
        Licence storage l = _licences[id][who];
        (l.price, l.left, l.until, l.purposes) = (price, uses, uint40(until), purposes);
        ++l.number;
        emit LicenceGranted(id, who, price, uses, until, purposes);
    }

    function revoke(uint64 id, address who) external {
        _needOwner(id);
        Licence storage l = _licences[id][who];
        if (l.until == 0) revert NoLicence(id, who);
        (l.left, l.until) = (0, 0);
        ++l.epoch;
        emit LicenceRevoked(id, who);
    }

    function admit(uint64 id, address[] calldata verifiers) external {
        _needOwner(id);
        if (verifiers.length > MOST_ADMITTED) revert BadLength("verifiers", verifiers.length, MOST_ADMITTED);
        address last = address(0);
        for (uint256 i = 0; i < verifiers.length; ++i) {
            if (verifiers[i] <= last) revert BadList(i);
            last = verifiers[i];
        }
        uint32 list = ++_datasets[id].list;
        _admitted[id][list] = verifiers;
        emit VerifiersAdmitted(id, list, verifiers);
    }

    function _needOwner(uint64 id) private view {
        if (_dataset(id).owner != msg.sender) revert NotOwner(msg.sender, id);
    }

    function withdraw(uint64 id) external nonReentrant {
        uint128 amount = revenue(id, msg.sender);
        if (amount == 0) revert NothingToWithdraw(msg.sender);
        _taken[id][msg.sender] += amount;
        emit RevenueWithdrawn(id, msg.sender, amount);
        _token.safeTransfer(msg.sender, amount);
    }

    // ---- Jobs ----------------------------------------------------------------------------------------------------------------

    function open(uint64 jobId, bytes calldata uses) external nonReentrant returns (bool listed) {
        if (msg.sender != address(_jobs)) revert NotJobs(msg.sender);
        (uint64[] memory ids, bytes memory head, uint8 purpose, uint128 most, uint32[] memory lists) =
            abi.decode(uses, (uint64[], bytes, uint8, uint128, uint32[]));
        if (ids.length == 0 || ids.length > MOST_DATASETS) revert BadLength("datasets", ids.length, MOST_DATASETS);
        if (lists.length != ids.length) revert BadLength("lists", lists.length, ids.length);
        Job memory t = _jobs.job(jobId);
        JobUse storage u = _uses[jobId];
        (u.client, u.purpose) = (t.client, purpose);
        _takeHead(u, t, jobId, ids, head);
        uint64[] memory prices = new uint64[](ids.length);
        for (uint256 i = 0; i < ids.length; ++i) {
            prices[i] = _license(u, t, ids[i]);
            if (_datasets[ids[i]].list != lists[i]) revert OtherList(ids[i], _datasets[ids[i]].list);
            if (_admitted[ids[i]][lists[i]].length > 0) listed = true;
        }
        if (listed) {
            u.listed = true;
            _needAdmitted(jobId, t.client, address(0), t.params.verifiers);
        }
        uint256 cost = _due(u, t.steps);
        if (cost > most) revert DataOverMost(cost, most);
        u.escrow = uint128(cost);
        emit JobLicensed(jobId, t.client, ids, prices, purpose, uint128(cost), lists);
        uint256 before = _token.balanceOf(address(this));
        _token.safeTransferFrom(t.client, address(this), cost);
        uint256 received = _token.balanceOf(address(this)) - before;
        if (received != cost) revert UnsupportedToken(cost, received);
    }

    /// The job's data are these datasets, whole: of one dataset that is proven here by its root; of several by the number of records, and
    /// the key service compares the rest (docs/protocol.md).
    function _takeHead(JobUse storage u, Job memory t, uint64 jobId, uint64[] memory ids, bytes memory head) private {
        if (head.length < HEAD_FIELDS || head[0] != 0x17 || sha256(head) != t.datasetRoot) revert OtherData(jobId);
        uint64 records;
        for (uint256 i = 0; i < ids.length; ++i) {
            Dataset storage d = _dataset(ids[i]);
            if (d.keyService != t.keyService) revert OtherKeyService(ids[i], d.keyService);
            records += d.records;
        }
        if (uint64(_word(head, HEAD_RECORDS) >> 192) != records) revert OtherData(jobId);
        if (ids.length == 1 && bytes32(_word(head, HEAD_ROOT)) != _datasets[ids[0]].root) revert OtherData(jobId);
        u.records = records;
        u.eachStep = SafeCast.toUint64(uint256(t.microBatches) * uint32(_word(head, HEAD_BATCH) >> 224));
    }

    function _word(bytes memory data, uint256 offset) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := mload(add(add(data, 32), offset))
        }
    }

    /// Takes what the whole job will read out of the licence: the client's own, or else everybody's.
    function _license(JobUse storage u, Job memory t, uint64 id) private returns (uint64 price) {
        (Licence storage l, bool own) = (_licences[id][t.client], true);
        if (l.until < block.timestamp) (l, own) = (_licences[id][address(0)], false);
        if (!_permits(l, u.purpose)) {
            if (l.until < block.timestamp) revert NoLicence(id, t.client);
            revert WrongPurpose(id, u.purpose);
        }
        uint256 needed = _reads(u, id, t.steps);
        if (l.left != ENDLESS) {
            if (l.left < needed) revert UsesExhausted(id, l.left, needed);
            l.left -= uint64(needed);
        }
        u.parts.push(Part(id, l.price, l.number, l.epoch, own, _datasets[id].list));
        return l.price;
    }

    function _permits(Licence storage l, uint8 purpose) private view returns (bool) {
        return l.until >= block.timestamp && (l.purposes == 0 || (purpose < 16 && l.purposes >> purpose & 1 == 1));
    }

    /// What a part of a job rests on.
    function _licenceOf(JobUse storage u, Part memory part) private view returns (Licence storage) {
        return _licences[part.dataset][part.own ? u.client : address(0)];
    }

    function need(uint64 jobId, address provider) external view {
        JobUse storage u = _use(jobId);
        Part[] memory parts = u.parts;
        for (uint256 i = 0; i < parts.length; ++i) {
            Licence storage l = _licenceOf(u, parts[i]);
            if (l.epoch != parts[i].epoch || !_permits(l, u.purpose)) revert NoLicence(parts[i].dataset, u.client);
        }
        if (u.listed) _needAdmitted(jobId, u.client, provider, _jobs.job(jobId).params.quorum);
    }

    // ---- verifiers -----------------------------------------------------------------------------------------------------------

    /// So many who may be drawn for a job have seats. Who has one now may have left it when the draw comes: what follows then is Jobs' rule
    /// for too few verifiers.
    function _needAdmitted(uint64 jobId, address client, address provider, uint256 needed) private view {
        address[] memory all = verifiersOf(jobId);
        uint256 found = 0;
        for (uint256 i = 0; i < all.length && found < needed; ++i) {
            if (all[i] != client && all[i] != provider && _stakes.seated(all[i])) ++found;
        }
        if (found < needed) revert TooFewAdmitted(found, needed);
    }

    function verifiersOf(uint64 jobId) public view returns (address[] memory all) {
        Part[] memory parts = _use(jobId).parts;
        bool some = false;
        for (uint256 i = 0; i < parts.length; ++i) {
            address[] memory one = _admitted[parts[i].dataset][parts[i].list];
            if (one.length == 0) continue;
            if (some) _intersect(all, one);
            else all = one;
            some = true;
        }
    }

    /// Leaves in `all` what is in `one`, too; both are in ascending order.
    function _intersect(address[] memory all, address[] memory one) private pure {
        uint256 kept = 0;
        uint256 k = 0;
        for (uint256 i = 0; i < all.length; ++i) {
            while (k < one.length && one[k] < all[i]) ++k;
            if (k < one.length && one[k] == all[i]) all[kept++] = all[i];
        }
        assembly ("memory-safe") {
            mstore(all, kept)
        }
    }

    // ---- anybody -------------------------------------------------------------------------------------------------------------

    function collect(uint64 jobId, uint64 most) external {
        if (_collect(jobId, most) == 0) revert NothingToCollect(jobId);
    }

    /// Walks on from the last segment that was paid for, along those that have settled.
    function _collect(uint64 jobId, uint64 most) private returns (uint64 count) {
        JobUse storage u = _use(jobId);
        uint64 next = u.cursor == 0 ? _jobs.job(jobId).child : _jobs.segment(u.cursor).child;
        for (; next != 0 && count < most; ++count) {
            Segment memory s = _jobs.segment(next);
            if (s.state != SegmentState.SETTLED) break;
            _pay(u, jobId, next, uint32(s.stop));
            next = s.child;
        }
    }

    function _pay(JobUse storage u, uint64 jobId, uint64 segment, uint32 stop) private {
        uint128 sum;
        uint32 from = u.settled;
        Part[] memory parts = u.parts;
        for (uint256 i = 0; i < parts.length; ++i) {
            uint128 amount = uint128(_dueOf(u, parts[i], stop) - _dueOf(u, parts[i], from));
            sum += amount;
            _datasets[parts[i].dataset].earned += amount;
            emit UsePaid(jobId, parts[i].dataset, segment, amount);
        }
        (u.cursor, u.settled, u.escrow) = (segment, stop, u.escrow - sum);
    }

    function refund(uint64 jobId) external nonReentrant {
        JobUse storage u = _use(jobId);
        if (u.refunded) revert AlreadyRefunded(jobId);
        Job memory t = _jobs.job(jobId);
        if (!t.closed) revert JobIsOpen(jobId);
        _collect(jobId, type(uint64).max);
        u.refunded = true;
        uint128 amount = u.escrow;
        u.escrow = 0;
        _giveBack(u, t.steps);
        emit UseRefunded(jobId, amount);
        if (amount > 0) _token.safeTransfer(u.client, amount);
    }

    /// Records that were not read can be read by another job, as long as the licence is the one that they were taken from.
    function _giveBack(JobUse storage u, uint64 steps) private {
        Part[] memory parts = u.parts;
        for (uint256 i = 0; i < parts.length; ++i) {
            Licence storage l = _licenceOf(u, parts[i]);
            uint64 id = parts[i].dataset;
            uint256 unused = _reads(u, id, steps) - _reads(u, id, u.settled);
            if (l.number == parts[i].number && l.epoch == parts[i].epoch && l.left != ENDLESS) l.left += uint64(unused);
        }
    }

    // ---- sums ----------------------------------------------------------------------------------------------------------------

    /// Records of a dataset that so many steps read: its part of all that they read.
    function _reads(JobUse storage u, uint64 id, uint256 steps) private view returns (uint256) {
        return steps * u.eachStep * _datasets[id].records / u.records;
    }

    function _dueOf(JobUse storage u, Part memory part, uint256 steps) private view returns (uint256) {
        return steps * u.eachStep * _datasets[part.dataset].records * part.price / (PRICED * u.records);
    }

    function _due(JobUse storage u, uint256 steps) private view returns (uint256 sum) {
        for (uint256 i = 0; i < u.parts.length; ++i) {
            sum += _dueOf(u, u.parts[i], steps);
        }
        if (sum > type(uint96).max) revert BadTerm("cost", sum, 0, type(uint96).max);
    }

    // ---- look-up -------------------------------------------------------------------------------------------------------------

    function _dataset(uint64 id) private view returns (Dataset storage d) {
        d = _datasets[id];
        if (d.owner == address(0)) revert NoSuchDataset(id);
    }

    function _use(uint64 jobId) private view returns (JobUse storage u) {
        u = _uses[jobId];
        if (u.client == address(0)) revert NoUse(jobId);
    }

    function jobs() external view returns (address) {
        return address(_jobs);
    }

    function dataset(uint64 id) external view returns (Dataset memory) {
        return _dataset(id);
    }

    function licence(uint64 id, address who) external view returns (Licence memory) {
        return _licences[id][who];
    }

    function useOf(uint64 jobId) external view returns (JobUse memory) {
        return _use(jobId);
    }

    function admitted(uint64 id, uint32 list) external view returns (address[] memory) {
        return _admitted[id][list];
    }

    function revenue(uint64 id, address owner) public view returns (uint128) {
        Dataset storage d = _dataset(id);
        for (uint256 i = 0; i < d.owners.length; ++i) {
            if (d.owners[i] == owner) return uint128(uint256(d.earned) * d.shares[i] / SHARES) - _taken[id][owner];
        }
        return 0;
    }
}
