// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {ProgramView} from "./dispute/ProgramView.sol";
import {Accused, Claim, IReceipts} from "./interfaces/IReceipts.sol";
import {LinkFacts} from "./types/DisputeTypes.sol";

/// Stake behind receipts that are signed off chain: each is the claim of one step of a program, and costs nothing until somebody doubts it.
/// Then it is brought here, and disputed like a segment's link: to a Disputes of its own this contract is what Jobs and Stakes are to
/// the network's (it answers the calls of both that a dispute makes), so the game, its leaves and its clocks are the same code.
///
/// Money: the contract holds `stake` of every account. What is reserved for a claim is reserved while a dispute over it is open; a signer
/// may sign for more than its stake covers, and who relies on a receipt looks at what else may be signed (docs/threat-model.md).
contract Receipts is IReceipts, EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;
    using ProgramView for bytes;

    struct Account {
        uint128 stake;
        uint128 reserved;
        uint128 unbonding;
        uint64 unbondedAt;
    }

    bytes32 private constant CLAIM_TYPE = keccak256(
        "Claim(address signer,bytes32 programRoot,bytes32 dataRoot,bytes32 scheduleRoot,bytes32 stateRoot,bytes32 linkRoot,uint128 bond,uint64 expires)"
    );
    /// Seconds that a signer has to run its step again, for each open dispute over it.
    uint32 private constant REPLAY = 600;

    IERC20 private immutable _token;
    uint64 public immutable unbondDelay;
    address private immutable _deployer;
    address public disputes;

    uint64 public receiptCount;
    mapping(uint64 id => Accused) private _accused;
    mapping(bytes32 digest => uint64) public receiptOf;
    mapping(address who => Account) private _accounts;

    modifier onlyDisputes() {
        if (msg.sender != disputes) revert NotDisputes(msg.sender);
        _;
    }

    constructor(address token_, uint64 unbondDelay_) EIP712("Assay receipts", "1") {
        (_token, unbondDelay, _deployer) = (IERC20(token_), unbondDelay_, msg.sender);
    }

    /// Once, by the deployer, which has no power after it.
    function bind(address disputes_) external {
        if (msg.sender != _deployer) revert NotDeployer(msg.sender, _deployer);
        if (disputes != address(0)) revert AlreadyBound();
        disputes = disputes_;
    }

    // ---- stake ---------------------------------------------------------------------------------------------------------------

    function deposit(uint128 amount) external nonReentrant {
        if (amount == 0) revert ZeroAmount();
        _accounts[msg.sender].stake += amount;
        emit Deposited(msg.sender, amount);
        _token.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// What is unbonding still answers for every receipt until it is withdrawn.
    function unbond(uint128 amount) external {
        Account storage a = _accounts[msg.sender];
        if (amount == 0) revert ZeroAmount();
        uint128 free = a.stake - a.unbonding;
        if (free < amount) revert InsufficientStake(msg.sender, free, amount);
        a.unbonding += amount;
        a.unbondedAt = uint64(block.timestamp) + unbondDelay;
        emit Unbonding(msg.sender, amount, a.unbondedAt);
    }

    function withdrawStake() external nonReentrant {
        Account storage a = _accounts[msg.sender];
        uint128 amount = a.unbonding;
        if (amount == 0) revert NothingUnbonding(msg.sender);
        if (block.timestamp < a.unbondedAt) revert StillUnbonding(a.unbondedAt);
        uint128 free = a.stake - a.reserved;
        if (free < amount) revert InsufficientStake(msg.sender, free, amount);
        a.unbonding = 0;
        a.stake -= amount;
        emit StakeWithdrawn(msg.sender, amount);
        _token.safeTransfer(msg.sender, amount);
    }

    // ---- claims --------------------------------------------------------------------------------------------------------------

    function accuse(Claim calldata c, bytes calldata signature, bytes calldata program) external returns (uint64 id) {
        bytes32 digest = digestOf(c);
        if (receiptOf[digest] != 0) revert IsAccused(receiptOf[digest]);
        if (!SignatureChecker.isValidSignatureNowCalldata(c.signer, digest, signature)) revert BadSignature(c.signer);
        receiptOf[digest] = id = ++receiptCount;
        Accused storage a = _accused[id];
        a.claim = c;
        // What a trace of it looks like follows from the program: head, stages, end.
        a.microLeaves = program.part(c.programRoot, false).stages + 2;
        a.updateLeaves = program.part(c.programRoot, true).stages + 2;
        a.micros = uint32(bytes4(program[1:5]));
        emit AccusedOf(id, c.signer, c.linkRoot);
    }

    function digestOf(Claim calldata c) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(CLAIM_TYPE, c)));
    }

    function _known(uint64 id) private view returns (Accused storage a) {
        a = _accused[id];
        if (a.claim.signer == address(0)) revert NoSuchReceipt(id);
    }

    // ---- what a dispute does (IJobs, IStakes) ----------------------------------------------------------------------------------

    function disputeOpened(uint64 id) external onlyDisputes {
        Accused storage a = _known(id);
        if (a.fell) revert HasFallen(id);
        if (block.timestamp > a.claim.expires) revert TooLate(a.claim.expires, uint64(block.timestamp));
        if (a.held == 0) {
            Account storage s = _accounts[a.claim.signer];
            uint128 free = s.stake - s.reserved;
            uint128 bond = a.claim.bond;
            if (free < bond || bond == 0) revert InsufficientStake(a.claim.signer, free, bond);
            s.reserved += bond;
            a.held = bond;
        }
        a.disputes += 1;
    }

    function disputeResolved(uint64 id, bool asserterLost) external onlyDisputes {
        if (asserterLost) {
            _accused[id].fell = true;
            emit Fell(id);
        }
        _less(id);
    }

    function disputeVoided(uint64 id) external onlyDisputes {
        _less(id);
    }

    /// With the last open dispute what is left of the bond is free.
    function _less(uint64 id) private {
        Accused storage a = _accused[id];
        a.disputes -= 1;
        if (a.disputes > 0 || a.held == 0) return;
        _accounts[a.claim.signer].reserved -= a.held;
        a.held = 0;
    }

    function slash(address who, uint64 id, uint128 amount, uint128 burnt) external onlyDisputes nonReentrant {
        _accused[id].held -= amount;
        Account storage s = _accounts[who];
        s.reserved -= amount;
        s.stake -= amount;
        // What is unbonding is of the stake that is left.
        if (s.unbonding > s.stake) s.unbonding = s.stake;
        emit Slashed(who, id, amount, burnt);
        _token.safeTransfer(msg.sender, amount);
    }

    /// Nobody is pardoned: receipts are not counted when they stand.
    function pardon(uint64, uint64, uint32) external pure returns (bool) {
        return false;
    }

    // ---- what a dispute asks (IJobs, IStakes) ----------------------------------------------------------------------------------

    function stakes() external view returns (address) {
        return address(this);
    }

    function token() external view returns (address) {
        return address(_token);
    }

    function reservation(address who, uint64 id) external view returns (uint128) {
        return who == _accused[id].claim.signer ? _accused[id].held : 0;
    }

    function linksOf(uint64 id) public view returns (address signer, bytes32 linkRoot, uint64 links) {
        Accused storage a = _known(id);
        return (a.claim.signer, a.claim.linkRoot, uint64(a.micros) + 1);
    }

    function linkFacts(uint64 id, uint64 unit) external view returns (LinkFacts memory f) {
        (, f.linkRoot, f.links) = linksOf(id);
        Accused storage a = _accused[id];
        (f.programRoot, f.datasetRoot, f.scheduleRoot) = (a.claim.programRoot, a.claim.dataRoot, a.claim.scheduleRoot);
        (f.startRoot, f.steps, f.micros) = (a.claim.stateRoot, 1, a.micros);
        f.leaves = unit == a.micros ? a.updateLeaves : a.microLeaves;
    }

    function partyTo(uint64 id, address) external view returns (uint32 open_, bool party, uint32 replay) {
        return (_known(id).disputes, false, REPLAY);
    }

    // ---- look-up -------------------------------------------------------------------------------------------------------------

    function receipt(uint64 id) external view returns (Accused memory) {
        return _known(id);
    }

    function stakeOf(address who) external view returns (uint128) {
        return _accounts[who].stake;
    }

    function reservedOf(address who) external view returns (uint128) {
        return _accounts[who].reserved;
    }

    function unbondingOf(address who) external view returns (uint128 amount, uint64 until) {
        return (_accounts[who].unbonding, _accounts[who].unbondedAt);
    }
}
