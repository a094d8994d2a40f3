// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IDisputeGame} from "../../src/interfaces/IDisputes.sol";
import {Dispute, Outcome, Stand} from "../../src/types/DisputeTypes.sol";
import {SegmentState} from "../../src/types/Types.sol";
import {Arena} from "./Arena.sol";
import {Recorder} from "./Recorder.sol";
import {Toy} from "./Toy.sol";
import {Trees} from "./Trees.sol";

/// Everything that anybody may do with disputes, in any order: moves of whole games that were recorded once (an honest asserter, a lying one,
/// challengers that are right and wrong), on several disputes at once, in time and late; moves out of turn and mangled ones; concessions, timeouts,
/// payments, the guardian's word. Provider and job are real; the link LIE is computed wrongly.
contract DisputeHandler is Arena {
    uint64 internal constant LIE = 2;
    /// 4 + 2 (o(links) + o(trace) + max(...)): a job of 6 links, 22 leaves, tensors of 2 chunks and folds of 300 items (docs/dispute.md).
    uint256 public constant MOST_MOVES = 4 + 2 * (1 + 1 + 3);
    uint256 internal constant MOST_OPEN = 5;

    struct Line {
        uint64 unit;
        Outcome outcome;
        // The challenger points where the asserter is wrong.
        bool right;
        bytes[] moves;
        bool[] asserting;
        // Hash of the moves before each.
        bytes32[] before;
    }

    struct Played {
        uint64 segment;
        uint256 line;
        uint256 next;
        uint256 moves;
        uint256 sealedAt;
        // Of the asserter, to replay the link.
        uint256 allowance;
        // Somebody made a move that no line has: nothing is known of what follows.
        bool strayed;
        bytes32 ended;
    }

    Line[] internal lines;
    /// The link that was conceded for nothing, and one.
    mapping(uint64 segment => uint256) internal pardoned;
    mapping(uint64 id => Played) internal played;
    bytes32[] internal ends;
    uint64 internal segment;
    uint256[5] public reached;
    uint256 public refusals;
    uint256 public movesMade;
    string public fault;

    constructor() {
        setUp();
        (lieUnit, lieStage, lieElement) = (LIE, 2, 0);
        for (uint256 i = 0; i < 12; ++i) {
            record(i);
        }
        renewed();
    }

    // ---- games to play ------------------------------------------------------------------------------------------------------------

    function record(uint256 which) private {
        uint64[12] memory units = [1, 1, 0, LIE, LIE, LIE, LIE, 5, 4, NO_UNIT, NO_UNIT, uint64(LIE)];
        IDisputeGame real = game;
        funded();
        uint64 id = opened(challenger, drawn(job, 0), units[which]);
        Recorder recorder = new Recorder(address(real));
        game = IDisputeGame(address(recorder));
        bool right = script(id, which);
        (game, leaps, falseItem) = (real, false, 0);
        Line storage line = lines.push();
        (line.unit, line.right, line.outcome) = (units[which], right, game.dispute(id).outcome);
        bytes32 before = keccak256(abi.encode(units[which]));
        for (uint256 i = 0; i < recorder.count(); ++i) {
            bytes memory move = recorder.moves(i);
            line.moves.push(move);
            line.asserting.push(recorder.asserting(i));
            line.before.push(before);
            assembly {
                mstore(add(move, 36), 0)
            }
            before = keccak256(abi.encode(before, keccak256(move)));
        }
        check(line.outcome == (right ? Outcome.ASSERTER_LOST : Outcome.ASSERTER_WON), "a recorded game ends as it should");
    }

    /// Plays one game to its end; whether the challenger is right.
    function script(uint64 id, uint256 which) private returns (bool right) {
        if (which == 9 || which == 10) {
            bytes32[][] memory rows = linkRows(game.dispute(id).segment);
            reveal(id, rows);
            walk(id, rows, which == 9 ? LIE : 1);
            if (which == 9) return outputs(id);
            return maps(id, 1, 0);
        }
        leaps = which == 1 || which == 11;
        if (which < 2) return maps(id, 1, uint64(which));
        if (which == 11) return maps(id, LIE, 0);
        if (which == 3) return outputs(id);
        if (which == 7 || which == 8) return which == 7 ? entries(id) : batches(id);
        Story memory s = story(which == 2 ? 0 : LIE, true);
        toElement(id, s, 2, 0);
        int256[] memory totals = Toy.folds(summed(s), 0, Toy.N);
        (falseItem, right) = (177, which > 4);
        // The total that the false output would follow from.
        if (right) totals[1] += int256(uint256(Toy.sum(s.outputs[1])[0] ^ 1)) - int256(uint256(Toy.sum(s.outputs[1])[0]));
        fold(id, s, totals);
        if (which == 6 || which == 4) {
            pickItem(id, s, totals, which == 6 ? 1 : 0, 177);
        } else {
            pick(id, s, totals, 1, partWith(falseItem, Toy.N));
            while (true) {
                Dispute memory d = game.dispute(id);
                if (d.hi - d.lo == 1) break;
                uint256 part = partWith(falseItem - d.lo, d.hi - d.lo);
                choose(id, d.node, split(id, s, part), part);
            }
        }
        item(id, s, totals);
        if (which == 6) right = false;
    }

    function maps(uint64 id, uint64 unit, uint64 which) private returns (bool) {
        Story memory s = story(unit, true);
        toElement(id, s, 0, which);
        prove(id, s, 0, which);
        return false;
    }

    function outputs(uint64 id) private returns (bool) {
        Story memory s = story(LIE, true);
        toElement(id, s, 2, 0);
        int256[] memory totals = Toy.folds(summed(s), 0, Toy.N);
        fold(id, s, totals);
        pickOutput(id, s, totals);
        finish(id, s, totals);
        return true;
    }

    function entries(uint64 id) private returns (bool) {
        Story memory s = story(5, true);
        trace(id, s);
        walk(id, Trees.rows(s.leaves), uint64(s.leaves.length - 1));
        end(id, s);
        walk(id, endRows(s), 0);
        endEntry(id, s, 0, Toy.root(Toy.vector(Toy.N), s.endFirst));
        return false;
    }

    function batches(uint64 id) private returns (bool) {
        Story memory s = story(4, true);
        trace(id, s);
        walk(id, Trees.rows(s.leaves), 0);
        batch(id, s);
        walk(id, Toy.batchRows(s.x), 0);
        batchEntry(id, s);
        toNamed(id, Toy.rows(s.x), s.x, 299);
        gather(id, s, 299);
        return false;
    }

    /// The same for every segment that begins at 0, so they are computed once.
    function linkEnds(uint64 id, uint64 stop) internal view override returns (bytes32[] memory) {
        return ends.length == 0 ? super.linkEnds(id, stop) : ends;
    }

    // ---- what anybody may do ----------------------------------------------------------------------------------------------------------

    modifier now_() {
        vm.roll(blockNow);
        vm.warp(timeNow);
        _;
        blockNow += 1;
        timeNow += 1;
    }

    function check(bool true_, string memory what) internal {
        if (!true_ && bytes(fault).length == 0) fault = what;
    }

    function funded() private {
        token.mint(client, BUDGET);
        token.mint(provider, 1000e6);
        vm.prank(provider);
        stakes.deposit(1000e6);
        job = post();
    }

    /// Another job and segment, when the one that is played on has ended.
    function renewed() private {
        funded();
        if (ends.length == 0) {
            uint64 id = activated(provider, job, 0);
            ends = super.linkEnds(id, jobs.segment(id).stop);
            commitTo(id, jobs.segment(id).stop);
            mine(3);
            jobs.draw(id);
            segment = id;
        } else {
            segment = drawn(job, 0);
        }
    }

    function playerOf(uint256 seed) private view returns (address) {
        address[5] memory all = [challenger, second, stranger, client, verifier(0)];
        return all[seed % 5];
    }

    function seal(uint256 seed) external now_ {
        if (stateOf(segment) != SegmentState.DRAWN) renewed();
        if (jobs.segment(segment).disputes >= MOST_OPEN) return;
        address by = playerOf(seed >> 8);
        token.mint(by, game.bondOf(segment, by));
        uint256 line = (seed >> 16) % lines.length;
        uint64 id = sealed_(by, segment, lines[line].unit);
        Played storage p = played[id];
        (p.segment, p.line, p.sealedAt) = (segment, line, timeNow);
        p.allowance = jobs.segment(segment).disputes * uint256(params().sealWindow);
    }

    /// One that is not resolved, if there is one among the next few.
    function some(uint256 seed) private view returns (uint64 id) {
        uint64 count = game.disputeCount();
        if (count == 0) return 0;
        for (uint64 i = 0; i < 6; ++i) {
            id = uint64((seed % 64 + i) % (count < 12 ? count : 12)) + (count < 12 ? 1 : count - 11);
            if (game.dispute(id).stand < Stand.RESOLVED) return id;
        }
    }

    /// The next move of a recorded game that fits all that was played. In time it must be taken, late it must not.
    function play(uint256 seed) external now_ {
        uint64 id = some(seed);
        if (id == 0) return;
        Dispute memory d = game.dispute(id);
        Played storage p = played[id];
        if (d.stand >= Stand.RESOLVED || p.strayed) return;
        bool late = block.timestamp > game.dueOf(id);
        if (d.stand == Stand.SEALED) {
            vm.prank(d.challenger);
            (bool opens,) = address(game).call(abi.encodeCall(game.open, (id, 0, lines[p.line].unit, address(0), 0, SALT)));
            check(opens != late, "a seal is opened in time and only then");
            return opens ? made(id, p) : refused();
        }
        Line storage line = lines[p.line];
        bytes32 before = line.before[p.next];
        for (uint256 i = 0; i < lines.length; ++i) {
            uint256 other_ = ((seed >> 32) + i) % lines.length;
            if (lines[other_].before.length > p.next && lines[other_].before[p.next] == before) {
                p.line = other_;
                break;
            }
        }
        line = lines[p.line];
        check(line.asserting[p.next] == d.asserting, "whose turn it is");
        bool done = send(id, line.moves[p.next], d.asserting ? d.asserter : d.challenger);
        check(done != late, "a legal move is taken in time and only then");
        if (!done) return refused();
        p.next += 1;
        made(id, p);
        if (p.next == line.moves.length) {
            check(game.dispute(id).outcome == line.outcome, "a game ends as it was recorded: the truth wins");
            check(line.outcome == Outcome.ASSERTER_LOST || game.dispute(id).taken == 0, "nothing is taken from who won");
        }
    }

    function send(uint64 id, bytes memory data, address by) private returns (bool done) {
        assembly {
            mstore(add(data, 36), id)
        }
        vm.prank(by);
        (done,) = address(game).call(data);
    }

    function made(uint64 id, Played storage p) private {
        p.moves += 1;
        movesMade += 1;
        check(p.moves <= MOST_MOVES, "more moves than a dispute can have");
        note(id);
    }

    function refused() private {
        refusals += 1;
    }

    /// What a resolved dispute came to.
    function note(uint64 id) private {
        Dispute memory d = game.dispute(id);
        Played storage p = played[id];
        if (d.stand < Stand.RESOLVED) {
            uint256 most = p.sealedAt + OPEN_WINDOW + p.moves * GRACE + 2 * uint256(BUDGET_TIME) + p.allowance;
            check(game.dueOf(id) <= most, "longer than a dispute can last");
        } else if (p.ended == 0) {
            p.ended = keccak256(abi.encode(d.outcome, d.taken, d.bond, d.asserter, d.challenger));
            reached[uint256(d.outcome)] += 1;
        }
    }

    /// Any recorded move with anybody as its sender, perhaps with a byte changed. Nothing is taken of a dispute that is over, nor of who is not a
    /// player; what is taken else, of who is allowed to, leaves the recorded games.
    function meddle(uint256 seed) external now_ {
        uint64 count = game.disputeCount();
        if (count == 0) return;
        uint64 id = uint64(seed % count) + 1;
        Dispute memory d = game.dispute(id);
        Line storage line = lines[(seed >> 64) % lines.length];
        bytes memory data = line.moves[(seed >> 96) % line.moves.length];
        if (seed >> 255 == 1) data[36 + (seed >> 128) % (data.length - 36)] ^= bytes1(uint8(1 + (seed >> 160) % 255));
        address by = (seed >> 192) % 3 == 0 ? d.asserter : (seed >> 192) % 3 == 1 ? d.challenger : stranger;
        bool done = send(id, data, by);
        if (!done) return refused();
        check(d.stand < Stand.RESOLVED, "no move after the end");
        check(by == (d.asserting ? d.asserter : d.challenger) || (bytes4(data) == IDisputeGame.reveal.selector && d.moved), "a move of somebody else");
        Played storage p = played[id];
        p.strayed = true;
        made(id, p);
    }

    function timeout(uint256 seed) external now_ {
        uint64 id = some(seed);
        if (id == 0) return;
        Dispute memory d = game.dispute(id);
        bool late = block.timestamp > game.dueOf(id);
        (bool done,) = address(game).call(abi.encodeCall(game.timeout, (id)));
        check(done == (d.stand < Stand.RESOLVED && late), "who is silent loses, and nobody else");
        if (!done) return refused();
        check(game.dispute(id).outcome == (d.asserting ? Outcome.ASSERTER_LOST : Outcome.ASSERTER_WON), "the side whose turn it was");
        note(id);
    }

    function concede(uint256 seed) external now_ {
        uint64 id = some(seed);
        if (id == 0 || seed >> 240 > 1 << 14) return;
        Dispute memory d = game.dispute(id);
        uint128 reserved = stakes.reservation(d.asserter, d.segment);
        uint16 settled_ = jobs.settledOf(d.asserter);
        vm.prank(d.asserter);
        (bool done,) = address(game).call(abi.encodeCall(game.concede, (id)));
        if (!done) return refused();
        check(d.asserting && (d.stand == Stand.LINKS || d.stand == Stand.TRACED), "a concession comes before the trace");
        bool fresh = settled_ >= PARDON_AFTER && jobs.settledOf(d.asserter) == 0;
        bool free = d.stand == Stand.TRACED && d.target == 0 && (fresh || pardoned[d.segment] == d.index + 1);
        if (free) pardoned[d.segment] = d.index + 1;
        check(game.dispute(id).taken == (free ? 0 : reserved / 2), "half of the bond, or nothing");
        note(id);
    }

    function pay(uint256 seed) external now_ {
        uint64 count = game.disputeCount();
        if (count == 0) return;
        uint64 id = uint64(seed % count) + 1;
        Dispute memory d = game.dispute(id);
        bool due = d.stand == Stand.RESOLVED && block.timestamp > game.dueOf(id);
        uint256 before = game.credit(d.asserter) + game.credit(d.challenger) + token.balanceOf(BURN);
        (bool done,) = address(game).call(abi.encodeCall(game.pay, (id)));
        check(done == due, "paid once, after the delay");
        if (!done) return refused();
        uint256 added = game.credit(d.asserter) + game.credit(d.challenger) + token.balanceOf(BURN) - before;
        check(added == uint256(d.bond) + d.taken, "all that it held");
    }

    function declareVoid(uint256 seed) external now_ {
        uint64 count = game.disputeCount();
        if (count == 0) return;
        uint64 id = uint64(seed % count) + 1;
        Dispute memory d = game.dispute(id);
        vm.prank((seed >> 64) % 4 == 0 ? stranger : guardian);
        (bool done,) = address(game).call(abi.encodeCall(game.declareVoid, (id)));
        if (!done) return refused();
        check((seed >> 64) % 4 != 0 && d.stand == Stand.RESOLVED, "the guardian, before it is paid");
        played[id].ended = 0;
        note(id);
    }

    function withdraw(uint256 seed) external now_ {
        address who = (seed >> 8) % 6 == 5 ? provider : playerOf(seed >> 8);
        (uint256 credit, uint256 before) = (game.credit(who), token.balanceOf(who));
        vm.prank(who);
        (bool done,) = address(game).call(abi.encodeCall(game.withdraw, ()));
        check(done == (credit > 0), "withdrawn");
        check(token.balanceOf(who) - before == credit, "what was credited");
    }

    function clear(uint256 seed) external now_ {
        uint64 id = uint64(seed % jobs.segmentCount()) + 1;
        (bool done,) = address(game).call(abi.encodeCall(game.clear, (id)));
        if (done) check(jobs.segment(id).state == SegmentState.REJECTED && jobs.segment(id).disputes == 0, "cleared after the disputes");
    }

    function wait(uint256 seed) external {
        timeNow += seed % 8 == 0 ? (seed >> 8) % (2 * BUDGET_TIME) : (seed >> 8) % GRACE;
        blockNow += 1 + (seed >> 64) % 3;
    }

    // ---- what must hold ---------------------------------------------------------------------------------------------------------------

    function holds() external {
        uint256 held = 0;
        uint64 count = game.disputeCount();
        uint256[] memory open_ = new uint256[](jobs.segmentCount() + 1);
        for (uint64 id = 1; id <= count; ++id) {
            Dispute memory d = game.dispute(id);
            if (d.stand != Stand.PAID) held += uint256(d.bond) + d.taken;
            bool waits = d.stand < Stand.RESOLVED || (d.stand == Stand.RESOLVED && d.outcome == Outcome.ASSERTER_WON);
            if (waits) open_[d.segment] += 1;
            bytes32 ended = played[id].ended;
            if (ended != 0) check(ended == keccak256(abi.encode(d.outcome, d.taken, d.bond, d.asserter, d.challenger)), "what is over stays so");
        }
        for (uint64 id = 1; id < open_.length; ++id) {
            check(jobs.segment(id).disputes == open_[id], "the open disputes of a segment");
        }
        address[8] memory who = [challenger, second, stranger, client, provider, other, verifier(0), guardian];
        for (uint256 i = 0; i < who.length; ++i) {
            held += game.credit(who[i]);
        }
        check(token.balanceOf(address(game)) == held, "tokens of the game: bonds, takings and credits");
        uint256 all = token.balanceOf(address(game)) + token.balanceOf(address(stakes)) + token.balanceOf(address(jobs)) + token.balanceOf(BURN);
        for (uint256 i = 0; i < who.length; ++i) {
            all += token.balanceOf(who[i]);
        }
        for (uint256 i = 1; i < VERIFIERS; ++i) {
            all += token.balanceOf(verifier(i));
        }
        check(all == token.totalSupply(), "all tokens are somewhere");
    }
}
