// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {Openings} from "./dispute/Openings.sol";
import {IFederated} from "./interfaces/IFederated.sol";
import {Merkle} from "./libraries/Merkle.sol";
import {Added, FederatedJob, FederatedRound, FederatedTerms, Piece, Rule, Sum} from "./types/FederatedTypes.sol";

/// Money for federated rounds: owners are paid for the rounds in which their updates are counted, and a host whose sum is not the sum of what
/// they signed loses its bond to whoever shows one number of it.
///
/// An owner signs the root of its masked row, less the masks that it shares with nobody who is counted. What is left hides its update as well,
/// and adds up, modulo 2^32 or 2^64, to the total exactly; so one chunk of each row is all that a proof takes.
///
/// Money: the contract holds `held` of every job and `credit`. A round's pay leaves `held` when it settles, whole. There is no owner. It is
/// deployed at the address that follows from its code and the token's address (CREATE2).
contract Federated is IFederated, EIP712, ReentrancyGuardTransient {
    using SafeERC20 for IERC20;

    bytes32 private constant ROW_TYPE = keccak256("Row(uint64 job,uint32 round,bytes32 terms,uint32 place,bytes32 row)");
    /// Where burnt bonds go (ERC-20s refuse the zero address).
    address public constant BURN = 0x000000000000000000000000000000000000dEaD;
    /// Bits of a word: who is counted.
    uint256 private constant MOST_OWNERS = 256;
    uint32 private constant MOST_ROUNDS = 4096;
    uint32 private constant MOST_WINDOW = 90 days;
    uint8 private constant I32 = 2;
    uint8 private constant I64 = 3;

    IERC20 private immutable _token;

    uint64 public count;
    mapping(uint64 id => FederatedJob) private _jobs;
    mapping(uint64 id => mapping(uint32 number => FederatedRound)) private _rounds;
    mapping(bytes32 challenge => Added) private _added;
    mapping(address who => uint128) public credit;

    constructor(address token_) EIP712("Assay federated", "1") {
        _token = IERC20(token_);
    }

    // ---- the job -------------------------------------------------------------------------------------------------------------

    function post(FederatedTerms calldata t) external nonReentrant returns (uint64 id) {
        _check(t);
        uint128 locked = uint128(t.pay) * t.rounds + t.bond;
        id = ++count;
        FederatedJob storage j = _jobs[id];
        (j.terms, j.host, j.held) = (keccak256(abi.encode(t)), msg.sender, locked);
        emit FederatedPosted(id, t.job, msg.sender, t);
        // A token that delivers another amount is not the network's: Jobs refuses it.
        _token.safeTransferFrom(msg.sender, address(this), locked);
    }

    function _check(FederatedTerms calldata t) private view {
        uint256 owners = t.owners.length;
        _within("owners", owners, 3, MOST_OWNERS);
        _within("rounds", t.rounds, 1, MOST_ROUNDS);
        _within("minimum", t.minimum, 2 * owners / 3 + 1, owners);
        if (t.bits != 32 && t.bits != 64) revert BadTerm("bits", t.bits, 32, 64);
        _within("length", t.length, 1, type(uint40).max);
        _within("pay", t.pay, 1, type(uint96).max);
        _within("bond", t.bond, 1, type(uint96).max);
        _within("window", t.window, 1, MOST_WINDOW);
        _within("deadline", t.deadline, block.timestamp, type(uint40).max - MOST_WINDOW);
        if (t.shares.length != owners) revert BadLength("shares", t.shares.length, owners);
        uint256 all = 0;
        for (uint256 i = 0; i < owners; ++i) {
            if (t.rule == Rule.EQUAL && t.shares[i] != 1) revert BadShare(i);
            all += t.shares[i];
        }
        if (all == 0) revert BadShare(owners);
        if ((t.rule == Rule.WORTH) != (t.worth != 0)) revert BadTerm("worth", uint256(t.worth), 0, 0);
    }

    function _within(string memory name, uint256 value, uint256 least, uint256 most) private pure {
        if (value < least || value > most) revert BadTerm(name, value, least, most);
    }

    function _known(uint64 id, FederatedTerms calldata t) private view returns (FederatedJob storage j) {
        j = _jobs[id];
        if (j.host == address(0)) revert NoSuchFederated(id);
        if (keccak256(abi.encode(t)) != j.terms) revert BadTerms(j.terms);
        if (j.ended) revert IsOver(id);
    }

    // ---- a round -------------------------------------------------------------------------------------------------------------

    function close(uint64 id, FederatedTerms calldata t, Sum calldata s, bytes[] calldata signatures) external {
        FederatedJob storage j = _known(id, t);
        if (msg.sender != j.host) revert NotTheHost(msg.sender);
        if (j.broken || j.closed == t.rounds) revert IsOver(id);
        if (block.timestamp > t.deadline) revert TooLate(t.deadline, uint64(block.timestamp));
        uint32 number = j.closed++;
        FederatedRound storage r = _rounds[id][number];
        r.counted = _signed(id, t, number, s, signatures);
        r.sum = keccak256(abi.encode(s));
        (r.until, j.until) = (uint40(block.timestamp + t.window), uint40(block.timestamp + t.window));
        emit RoundClosed(id, number, s, r.until);
    }

    /// Who is counted: each has signed its row.
    function _signed(uint64 id, FederatedTerms calldata t, uint32 number, Sum calldata s, bytes[] calldata signatures)
        private
        view
        returns (uint256 counted)
    {
        uint256 owners = t.owners.length;
        if (s.rows.length != owners) revert BadLength("rows", s.rows.length, owners);
        if (signatures.length != owners) revert BadLength("signatures", signatures.length, owners);
        uint256 many = 0;
        for (uint256 i = 0; i < owners; ++i) {
            if (s.rows[i] == 0) continue;
            bytes32 digest = digestOf(id, number, s.terms, uint32(i), s.rows[i]);
            if (!SignatureChecker.isValidSignatureNowCalldata(t.owners[i], digest, signatures[i])) revert BadSignature(i);
            counted |= 1 << i;
            ++many;
        }
        if (many < t.minimum) revert TooFew(many, t.minimum);
    }

    function digestOf(uint64 id, uint32 number, bytes32 terms, uint32 place, bytes32 row) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(ROW_TYPE, id, number, terms, place, row)));
    }

    function _open(uint64 id, FederatedJob storage j, uint32 number) private view returns (FederatedRound storage r) {
        if (number >= j.closed) revert NoSuchRound(number);
        r = _rounds[id][number];
        if (block.timestamp > r.until) revert TooLate(r.until, uint64(block.timestamp));
    }

    function add(uint64 id, FederatedTerms calldata t, uint32 number, Sum calldata s, uint64 index, Piece[] calldata rows) external {
        _disputed(id, t, number, s, index);
        Added storage a = _added[_challengeOf(id, number, index, msg.sender)];
        (uint64 sum, uint256 done,) = _addUp(t, s, index, rows, a);
        (a.sum, a.rows) = (sum, uint32(done));
    }

    /// A number of a round that can be challenged.
    function _disputed(uint64 id, FederatedTerms calldata t, uint32 number, Sum calldata s, uint64 index) private view {
        FederatedJob storage j = _known(id, t);
        bytes32 closed = _open(id, j, number).sum;
        if (j.broken) revert IsOver(id);
        if (keccak256(abi.encode(s)) != closed) revert BadSum(closed);
        _within("index", index, 0, t.length - 1);
    }

    function _challengeOf(uint64 id, uint32 number, uint64 index, address who) private pure returns (bytes32) {
        return keccak256(abi.encode(id, number, index, who));
    }

    function challenge(
        uint64 id,
        FederatedTerms calldata t,
        uint32 number,
        Sum calldata s,
        uint64 index,
        Piece calldata total,
        Piece[] calldata rows
    ) external nonReentrant {
        _disputed(id, t, number, s, index);
        Added storage a = _added[_challengeOf(id, number, index, msg.sender)];
        _needFalse(t, s, index, total, rows, a);
        // Half of the bond is burnt, so that a host that challenges itself loses.
        _break(id, number, index, t.bond, t.bond / 2);
    }

    function _break(uint64 id, uint32 number, uint64 index, uint128 bond, uint128 reward) private {
        FederatedJob storage j = _jobs[id];
        j.broken = true;
        j.held -= bond;
        credit[msg.sender] += reward;
        emit RoundFalse(id, number, index, msg.sender, reward, bond - reward);
        _token.safeTransfer(BURN, bond - reward);
    }

    function object(uint64 id, FederatedTerms calldata t, uint32 number, uint8 place) external nonReentrant {
        FederatedJob storage j = _known(id, t);
        FederatedRound storage r = _open(id, j, number);
        if (j.broken) revert IsOver(id);
        bool mine = place < t.owners.length && t.owners[place] == msg.sender;
        if (!mine || ((r.counted & ~r.objected) >> place) & 1 == 0) revert NotCounted(place);
        r.objected |= 1 << uint256(place);
        emit OwnerObjected(id, number, place);
        uint256 ahead = 0;
        for (uint256 i = 0; i < t.owners.length; ++i) {
            ahead += 2 * ((r.objected >> i) & 1) + 1 - ((r.counted >> i) & 1);
        }
        if (ahead > t.owners.length) _break(id, number, type(uint64).max, t.bond, 0);
    }

    function _needFalse(FederatedTerms calldata t, Sum calldata s, uint64 index, Piece calldata total, Piece[] calldata rows, Added storage a)
        private
        view
    {
        (uint64 sum, uint256 done, uint256 all) = _addUp(t, s, index, rows, a);
        if (done != all) revert BadLength("pieces", done, all);
        if (sum == _number(t, s.total, index, total)) revert SumIsRight(index);
    }

    /// The sum of number `index` of the rows, with those that were added before; of how many rows that is, and how many there are.
    function _addUp(FederatedTerms calldata t, Sum calldata s, uint64 index, Piece[] calldata rows, Added storage a)
        private
        view
        returns (uint64 sum, uint256 done, uint256 all)
    {
        (sum, done) = (a.sum, a.rows);
        uint256 next = 0;
        for (uint256 i = 0; i < s.rows.length; ++i) {
            if (s.rows[i] == 0 || all++ < done || next == rows.length) continue;
            unchecked {
                sum += _number(t, s.rows[i], index, rows[next++]);
                ++done;
            }
        }
        if (next != rows.length) revert BadLength("pieces", rows.length, next);
        if (t.bits == 32) sum = uint32(sum);
    }

    /// Number `index` of the row under a tensor root.
    function _number(FederatedTerms calldata t, bytes32 root, uint64 index, Piece calldata p) private view returns (uint64) {
        uint256 width = t.bits / 8;
        if (p.chunk.length != Openings.CHUNK || p.path.length != Merkle.depth(Openings.chunksOf(t.length, width))) revert BadProof();
        uint64 chunk = uint64(uint256(index) * width / Openings.CHUNK);
        bytes32 chunks = Merkle.climb(Merkle.leafAt(chunk, p.chunk), chunk, p.path);
        bytes memory shape = abi.encodePacked(t.bits == 32 ? I32 : I64, uint8(1), t.length);
        if (Openings.tensorRoot(shape, chunks) != root) revert BadProof();
        return Openings.inChunk(p.chunk, index, width);
    }

    function strike(uint64 id, FederatedTerms calldata t, uint32 number, uint8 place) external {
        FederatedRound storage r = _open(id, _known(id, t), number);
        if (msg.sender != t.auditor) revert NotTheAuditor(msg.sender);
        if (place >= t.owners.length || (r.counted >> place) & 1 == 0) revert NotCounted(place);
        if (r.struck != 0) revert IsStruck(r.struck - 1);
        r.struck = uint16(place) + 1;
        emit OwnerStruck(id, number, place);
    }

    // ---- payment -------------------------------------------------------------------------------------------------------------

    function settle(uint64 id, FederatedTerms calldata t, uint32 number) external {
        FederatedJob storage j = _known(id, t);
        if (number >= j.closed) revert NoSuchRound(number);
        FederatedRound storage r = _rounds[id][number];
        if (r.settled) revert IsSettled(number);
        if (block.timestamp <= r.until) revert TooEarly(r.until, uint64(block.timestamp));
        r.settled = true;
        ++j.settled;
        uint256 all = 0;
        for (uint256 i = 0; i < t.shares.length; ++i) {
            all += t.shares[i];
        }
        uint128 left = t.pay;
        for (uint256 i = 0; i < t.owners.length; ++i) {
            if ((r.counted >> i) & 1 == 0 || r.struck == i + 1) continue;
            uint128 amount = uint128(uint256(t.pay) * t.shares[i] / all);
            left -= amount;
            credit[t.owners[i]] += amount;
            emit OwnerPaid(id, number, t.owners[i], amount);
        }
        j.held -= t.pay;
        credit[j.host] += left;
        emit RoundSettled(id, number, left);
    }

    function end(uint64 id, FederatedTerms calldata t) external {
        FederatedJob storage j = _known(id, t);
        if (!j.broken && j.closed < t.rounds && block.timestamp <= t.deadline) revert TooEarly(t.deadline, uint64(block.timestamp));
        if (j.settled < j.closed) revert NotSettled(j.settled, j.closed);
        uint128 back = j.held;
        (j.ended, j.held) = (true, 0);
        credit[j.host] += back;
        emit FederatedEnded(id, back);
    }

    function withdraw() external nonReentrant {
        uint128 amount = credit[msg.sender];
        if (amount == 0) revert NothingToWithdraw(msg.sender);
        credit[msg.sender] = 0;
        emit FederatedWithdrawn(msg.sender, amount);
        _token.safeTransfer(msg.sender, amount);
    }

    // ---- look-up -------------------------------------------------------------------------------------------------------------

    function token() external view returns (address) {
        return address(_token);
    }

    function job(uint64 id) external view returns (FederatedJob memory j) {
        j = _jobs[id];
        if (j.host == address(0)) revert NoSuchFederated(id);
    }

    function added(uint64 id, uint32 number, uint64 index, address who) external view returns (Added memory) {
        return _added[_challengeOf(id, number, index, who)];
    }

    function round(uint64 id, uint32 number) external view returns (FederatedRound memory) {
        if (number >= _jobs[id].closed) revert NoSuchRound(number);
        return _rounds[id][number];
    }
}
