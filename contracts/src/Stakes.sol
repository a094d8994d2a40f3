// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {IJobs} from "./interfaces/IJobs.sol";
import {IStakes} from "./interfaces/IStakes.sol";

/// Collateral. What an account has deposited is free, reserved (by Jobs for a segment, by a seat) or unbonding; only free stake
/// can be reserved or unbonded, so what is reserved is always there. Jobs keeps count of what it has reserved, beside the credits
/// that it pays; it moves fees out of a reservation to itself, Disputes slashes a reservation; nobody else can take anything, and
/// the deployer's only power is to bind these two and Datasets, once.
contract Stakes is IStakes, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using Checkpoints for Checkpoints.Trace160;

    struct Account {
        uint128 stake;
        // For seats.
        uint128 reserved;
        uint128 unbonding;
        uint64 unbondedAt;
        bytes32 encryptionKey;
    }

    struct Seat {
        address holder;
        uint64 slot;
    }

    /// Where burnt stake goes (ERC-20s refuse the zero address).
    address public constant BURN = 0x000000000000000000000000000000000000dEaD;
    uint256 private constant MOST_PEER_BYTES = 128;

    address public immutable token;
    uint128 public immutable seatStake;
    uint64 public immutable unbondDelay;
    address private immutable _deployer;
    address public jobs;
    address public disputes;
    address public datasets;

    mapping(address who => Account) private _accounts;

    // Seats stand in slots 0 .. count - 1, without gaps; who stood where is known for every past block, so that a draw can
    // take the seats of a block before its seed existed.
    uint64 private _lastSeat;
    Checkpoints.Trace160 private _count;
    mapping(uint64 slot => Checkpoints.Trace160) private _holders;
    mapping(uint64 slot => uint64 seat) private _seatIn;
    mapping(uint64 seat => Seat) private _seats;

    modifier onlyJobs() {
        if (msg.sender != jobs) revert NotJobs(msg.sender);
        _;
    }

    constructor(address token_, uint128 seatStake_, uint64 unbondDelay_) {
        if (token_ == address(0)) revert BadAddress();
        token = token_;
        seatStake = seatStake_;
        unbondDelay = unbondDelay_;
        _deployer = msg.sender;
    }

    function bind(address jobs_, address disputes_) external {
        if (msg.sender != _deployer) revert NotDeployer(msg.sender, _deployer);
        if (jobs != address(0)) revert AlreadyBound();
        if (jobs_ == address(0) || disputes_ == address(0)) revert BadAddress();
        jobs = jobs_;
        disputes = disputes_;
        emit Bound(jobs_, disputes_);
    }

    function bindDatasets(address datasets_) external {
        if (msg.sender != _deployer) revert NotDeployer(msg.sender, _deployer);
        if (datasets != address(0)) revert AlreadyBound();
        if (datasets_ == address(0)) revert BadAddress();
        datasets = datasets_;
        emit DatasetsBound(datasets_);
    }

    // ---- accounts ------------------------------------------------------------------------------------------------------------

    function register(bytes32 encryptionKey, string calldata peer) external {
        uint256 length = bytes(peer).length;
        if (length == 0 || length > MOST_PEER_BYTES) revert BadPeer(length);
        if (encryptionKey == 0) revert BadEncryptionKey();
        _accounts[msg.sender].encryptionKey = encryptionKey;
        emit Registered(msg.sender, encryptionKey, peer);
    }

    function deposit(uint128 amount) external nonReentrant {
        if (amount == 0) revert ZeroAmount();
        _accounts[msg.sender].stake += amount;
        uint256 before = IERC20(token).balanceOf(address(this));
        IERC20(token).safeTransferFrom(msg.sender, address(this), amount);
        uint256 received = IERC20(token).balanceOf(address(this)) - before;
        if (received != amount) revert UnsupportedToken(amount, received);
        emit Deposited(msg.sender, amount);
    }

    function unbond(uint128 amount) external {
        if (amount == 0) revert ZeroAmount();
        _needFree(msg.sender, amount);
        Account storage account = _accounts[msg.sender];
        account.unbonding += amount;
        account.unbondedAt = uint64(block.timestamp) + unbondDelay;
        emit Unbonding(msg.sender, amount, account.unbondedAt);
    }

    function withdrawStake() external nonReentrant {
        Account storage account = _accounts[msg.sender];
        uint128 amount = account.unbonding;
        if (amount == 0) revert NothingUnbonding(msg.sender);
        if (block.timestamp < account.unbondedAt) revert StillUnbonding(account.unbondedAt);
        account.unbonding = 0;
        account.stake -= amount;
        emit StakeWithdrawn(msg.sender, amount);
        IERC20(token).safeTransfer(msg.sender, amount);
    }

    // ---- seats ---------------------------------------------------------------------------------------------------------------

    function takeSeat() external returns (uint64 seat) {
        if (_accounts[msg.sender].encryptionKey == 0) revert NotRegistered(msg.sender);
        _needFree(msg.sender, seatStake);
        _accounts[msg.sender].reserved += seatStake;
        seat = ++_lastSeat;
        uint64 slot = seatCount();
        _place(seat, msg.sender, slot);
        _count.push(SafeCast.toUint96(block.number), slot + 1);
        emit SeatTaken(msg.sender, seat);
    }

    function leaveSeat(uint64 seat) external {
        Seat memory left = _seats[seat];
        if (left.holder != msg.sender) revert NotSeatHolder(seat, msg.sender);
        delete _seats[seat];
        uint64 last = seatCount() - 1;
        if (left.slot != last) {
            uint64 moved = _seatIn[last];
            _place(moved, _seats[moved].holder, left.slot);
        }
        _count.push(SafeCast.toUint96(block.number), last);
        _accounts[msg.sender].reserved -= seatStake;
        emit SeatLeft(msg.sender, seat);
    }

    function _place(uint64 seat, address holder, uint64 slot) private {
        _seats[seat] = Seat(holder, slot);
        _seatIn[slot] = seat;
        _holders[slot].push(SafeCast.toUint96(block.number), uint160(holder));
    }

    // ---- Jobs and Disputes ---------------------------------------------------------------------------------------------------

    function charge(address who, uint64 segment, uint128 amount, string calldata reason) external onlyJobs nonReentrant {
        _accounts[who].stake -= amount;
        emit FeeCharged(who, segment, amount, reason);
        IERC20(token).safeTransfer(jobs, amount);
    }

    function slash(address who, uint64 segment, uint128 amount, uint128 burnt) external nonReentrant {
        if (msg.sender != disputes) revert NotDisputes(msg.sender);
        if (amount == 0) revert ZeroAmount();
        if (burnt > amount) revert ReservationExceeded(who, segment, amount, burnt);
        IJobs(jobs).seize(segment, who, amount);
        _accounts[who].stake -= amount;
        emit Slashed(who, segment, amount, burnt);
        if (burnt > 0) IERC20(token).safeTransfer(BURN, burnt);
        if (amount > burnt) IERC20(token).safeTransfer(disputes, amount - burnt);
    }

    function _needFree(address who, uint128 amount) private view {
        uint128 free = freeStake(who);
        if (free < amount) revert InsufficientStake(who, free, amount);
    }

    /// Reserved for segments and draws.
    function _held(address who) private view returns (uint128) {
        return jobs == address(0) ? 0 : IJobs(jobs).heldOf(who);
    }

    // ---- views ---------------------------------------------------------------------------------------------------------------

    function seated(address who) external view returns (bool) {
        return _accounts[who].reserved > 0;
    }

    function stakeOf(address who) external view returns (uint128) {
        return _accounts[who].stake;
    }

    function reservedOf(address who) external view returns (uint128) {
        return _accounts[who].reserved + _held(who);
    }

    function reservation(address who, uint64 segment) external view returns (uint128) {
        return jobs == address(0) ? 0 : IJobs(jobs).reservation(who, segment);
    }

    function unbondingOf(address who) external view returns (uint128 amount, uint64 until) {
        return (_accounts[who].unbonding, _accounts[who].unbondedAt);
    }

    function freeStake(address who) public view returns (uint128) {
        Account storage account = _accounts[who];
        return account.stake - account.reserved - account.unbonding - _held(who);
    }

    function encryptionKeyOf(address who) external view returns (bytes32) {
        return _accounts[who].encryptionKey;
    }

    function seatHolder(uint64 seat) external view returns (address) {
        return _seats[seat].holder;
    }

    function seatCount() public view returns (uint64) {
        return uint64(_count.latest());
    }

    function seatCountAt(uint64 blockNumber) external view returns (uint64) {
        _needPast(blockNumber);
        return uint64(_count.upperLookupRecent(blockNumber));
    }

    function holderAt(uint64 slot, uint64 blockNumber) external view returns (address) {
        _needPast(blockNumber);
        return address(_holders[slot].upperLookupRecent(blockNumber));
    }

    function _needPast(uint64 blockNumber) private view {
        if (blockNumber >= block.number) revert FutureBlock(blockNumber, block.number);
    }
}
