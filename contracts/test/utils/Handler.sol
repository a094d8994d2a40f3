// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Check, Job, Offer, Phase, Reveal, Segment, SegmentState, Terms} from "../../src/types/Types.sol";
import {Network} from "./Network.sol";
import {Shown} from "./Shown.sol";

/// Everything that anybody may do, in any order: each function takes a number and does with it one thing, often the natural next
/// one. After each, what only its owner may move must not have moved, and what was terminal must be as it was.
contract Handler is Network {
    uint64 internal constant MOST_JOBS = 6;

    address[] public actors;
    address internal acting;
    /// WITHHELD, and a dispute has borne out those who said no.
    mapping(uint64 segment => bool) public borneOut;
    mapping(uint64 segment => bytes32) public ends;
    mapping(address who => uint128) public withdrawn;
    mapping(SegmentState state => uint256) public reached;
    mapping(address who => mapping(uint256 index => uint64)) internal seatOf;
    mapping(address who => uint256) internal seatsOf;
    uint128 public refunds;
    /// Chunks that were shown.
    uint256 public shown;
    /// What has been seen that must not be; kept, because a revert would be taken for a call that was refused.
    string public fault;

    constructor() {
        setUp();
        actors.push(client);
        actors.push(provider);
        actors.push(other);
        for (uint256 i = 0; i < VERIFIERS; ++i) {
            actors.push(verifier(i));
            seatOf[verifier(i)][0] = uint64(i + 1);
            seatsOf[verifier(i)] = 1;
        }
        postJob(0);
    }

    // ---- what holds over every single call -----------------------------------------------------------------------------------

    modifier guarded(address actor) {
        vm.roll(blockNow);
        vm.warp(timeNow);
        hashes(blockNow);
        acting = actor;
        uint256[] memory tokens = new uint256[](actors.length);
        for (uint256 i = 0; i < actors.length; ++i) {
            tokens[i] = token.balanceOf(actors[i]);
        }
        _;
        for (uint256 i = 0; i < actors.length; ++i) {
            check(actors[i] == acting || token.balanceOf(actors[i]) == tokens[i], "tokens of who did nothing");
        }
        for (uint64 id = 1; id <= jobs.segmentCount(); ++id) {
            Segment memory s = jobs.segment(id);
            if (s.state < SegmentState.SETTLED) continue;
            // What a withheld one keeps for those who said no is given back with the bond.
            uint128 held = s.state == SegmentState.WITHHELD ? 0 : s.feesHeld;
            bytes32 now_ = keccak256(abi.encode(s.state, s.price, s.stop, s.endRoot, s.commitment, s.provider, held, s.round));
            if (ends[id] == 0) {
                ends[id] = now_;
                ++reached[s.state];
            }
            check(now_ == ends[id], "what is terminal never changes");
        }
        vm.roll(blockNow);
        vm.warp(timeNow);
    }

    function check(bool holds, string memory what) internal {
        if (!holds) fault = what;
    }

    function actorOf(uint256 seed) internal view returns (address) {
        return actors[seed % actors.length];
    }

    /// One of all, now and then; mostly one that lives.
    function segmentOf(uint256 seed) internal view returns (uint64) {
        uint64 count = jobs.segmentCount();
        if (count == 0) return 0;
        uint64 start = uint64((seed >> 8) % count);
        if (seed % 8 == 0) return start + 1;
        for (uint64 i = 0; i < count; ++i) {
            uint64 id = (start + i) % count + 1;
            if (jobs.segment(id).state < SegmentState.SETTLED) return id;
        }
        return start + 1;
    }

    // ---- jobs ----------------------------------------------------------------------------------------------------------------

    function postJob(uint256 seed) public guarded(client) {
        if (jobs.jobCount() >= MOST_JOBS || (seed >> 192) % 4 != 0) return;
        Terms memory t = terms();
        t.steps = 1 + uint64((seed >> 160) % 40);
        t.budget = 50e6 + uint128(seed % 450e6);
        t.fee = uint128((seed >> 16) % 3e6);
        t.params.redraws = uint32((seed >> 32) % 3);
        t.params.verifiers = 1 + uint32((seed >> 40) % 4);
        t.params.quorum = t.params.verifiers / 2 + 1;
        t.params.depth = 1 + uint32((seed >> 48) % 3);
        t.params.drawBond = uint128((seed >> 56) % (SEAT_STAKE / 4));
        t.params.bondTenths = uint32((seed >> 88) % 80);
        t.params.lateFeeBps = uint32((seed >> 96) % 10_001);
        t.params.noShowBps = uint32((seed >> 112) % 10_001);
        t.deadline = uint64(timeNow + 1 days + (seed >> 128) % 100 days);
        vm.prank(client);
        jobs.post(t);
    }

    function fundJob(uint256 seed) public guarded(actorOf(seed)) {
        uint64 id = 1 + uint64((seed >> 8) % jobs.jobCount());
        vm.prank(actorOf(seed));
        jobs.fund(id, 1 + uint128((seed >> 32) % 50e6));
    }

    function cancelJob(uint256 seed) public guarded(actorOf(seed)) {
        uint64 id = 1 + uint64((seed >> 8) % jobs.jobCount());
        if ((seed >> 200) % 16 != 0) return;
        vm.prank(actorOf(seed));
        jobs.cancel(id);
    }

    function closeJob(uint256 seed) public guarded(actorOf(seed)) {
        uint64 id = 1 + uint64((seed >> 8) % jobs.jobCount());
        uint128 refund = escrow(id);
        vm.prank(actorOf(seed));
        jobs.close(id);
        refunds += refund;
    }

    function withdraw(uint256 seed) public guarded(actorOf(seed)) {
        address who = actorOf(seed);
        uint128 amount = jobs.credit(who);
        uint256 had = token.balanceOf(who);
        vm.prank(who);
        jobs.withdraw();
        withdrawn[who] += amount;
        check(token.balanceOf(who) == had + amount, "its own credit, all of it");
    }

    // ---- stake ---------------------------------------------------------------------------------------------------------------

    function deposit(uint256 seed) public guarded(actorOf(seed)) {
        vm.prank(actorOf(seed));
        stakes.deposit(1 + uint128((seed >> 8) % 100e6));
    }

    function unbond(uint256 seed) public guarded(actorOf(seed)) {
        vm.prank(actorOf(seed));
        stakes.unbond(1 + uint128((seed >> 8) % 50e6));
    }

    function withdrawStake(uint256 seed) public guarded(actorOf(seed)) {
        address who = actorOf(seed);
        (uint128 amount, uint64 until) = stakes.unbondingOf(who);
        if (amount > 0 && (seed >> 8) % 8 == 0) pass(until);
        uint256 had = token.balanceOf(who);
        vm.prank(who);
        stakes.withdrawStake();
        check(token.balanceOf(who) == had + amount, "its own stake");
    }

    function takeOrLeaveSeat(uint256 seed) public guarded(actorOf(seed)) {
        address who = actorOf(seed);
        vm.prank(who);
        if ((seed >> 8) % 2 == 0) {
            seatOf[who][seatsOf[who]++] = stakes.takeSeat();
        } else if (seatsOf[who] > 0) {
            uint256 pick = (seed >> 16) % seatsOf[who];
            stakes.leaveSeat(seatOf[who][pick]);
            seatOf[who][pick] = seatOf[who][--seatsOf[who]];
        } else {
            stakes.leaveSeat(1);
        }
    }

    // ---- segments ------------------------------------------------------------------------------------------------------------

    function assign(uint256 seed) public guarded(address(0)) {
        assignNext(seed);
    }

    function assignNext(uint256 seed) internal {
        // Mostly the last job.
        uint64 jobId = seed % 3 == 0 ? 1 + uint64((seed >> 8) % jobs.jobCount()) : jobs.jobCount();
        uint64 parent = 0;
        // The tip of the job's chain of segments: follow the live children, stop one short of an uncommitted one.
        uint64 next = jobs.job(jobId).child;
        while (next != 0 && jobs.segment(next).state >= SegmentState.COMMITTED) (parent, next) = (next, jobs.segment(next).child);
        address by = (seed >> 16) % 2 == 0 ? provider : other;
        Offer memory o = offerOf(by, jobId, parent, 0);
        if (o.stop <= o.start) return;
        o.price = 1 + uint128((seed >> 24) % (10e6 * (o.stop - o.start)));
        bytes memory signature = signOffer(o);
        vm.prank(scheduler);
        jobs.assign(o, signature);
    }

    function proceed(uint256 seed) public guarded(address(0)) {
        step(segmentOf(seed), seed >> 32);
    }

    function proceedAgain(uint256 seed) public guarded(address(0)) {
        for (uint256 i = 0; i < 4; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            step(segmentOf(seed >> 1), seed >> 32);
            if (seed & 1 == 1) try this.assignFor(seed >> 64) {} catch {}
        }
    }

    /// What comes next for a segment, done well or badly.
    function step(uint64 id, uint256 seed) internal {
        if (id == 0) return;
        Segment memory s = jobs.segment(id);
        if (s.state == SegmentState.ASSIGNED || s.state == SegmentState.ACTIVE) {
            if (seed % 8 == 0) {
                address[] memory to = new address[](1);
                to[0] = s.provider;
                releaseKeys(id, keyService, to);
            }
            bool late = timeNow > (s.state == SegmentState.ASSIGNED ? s.activateBy : s.leaseUntil);
            if (late || seed % 32 == 1) return lapse(id, s);
        }
        if (s.state == SegmentState.ASSIGNED) {
            vm.prank(s.provider);
            try jobs.activate(id) {} catch {}
        } else if (s.state == SegmentState.ACTIVE) {
            commitOrNot(id, s.start + 1 + uint64((seed >> 8) % (s.stop - s.start)));
        } else if (s.state == SegmentState.COMMITTED) {
            mine(3);
            if (seed % 16 == 2) pass(s.drawBy);
            try jobs.draw(id) {} catch {}
        } else if (s.state == SegmentState.DRAWN) {
            serveOrNot(id, s, seed);
        } else if (s.state == SegmentState.SERVED) {
            votes(id, seed);
        } else if (s.state == SegmentState.ATTESTED) {
            pass(s.settleAfter);
            try jobs.settle(id) {} catch {}
        } else if (s.state == SegmentState.UNPAID) {
            pass(s.settleAfter);
            try jobs.clearBond(id) {} catch {}
        }
    }

    function lapse(uint64 id, Segment memory s) internal {
        pass(s.state == SegmentState.ASSIGNED ? s.activateBy : s.leaseUntil);
        try jobs.lapse(id) {} catch {}
    }

    function commitOrNot(uint64 id, uint64 stop) internal {
        try this.commitFor(id, stop) {} catch {}
    }

    function commitFor(uint64 id, uint64 stop) external {
        assertEq(msg.sender, address(this), "a step of its own");
        commitTo(id, stop);
    }

    function serveOrNot(uint64 id, Segment memory s, uint256 seed) internal {
        address[] memory who = committee(id);
        if (s.phase == Phase.SHOW) return showOrNot(id, s, seed);
        if (seed % 4 != 0) releaseKeys(id, keyService, who);
        uint256 quorum = jobs.job(s.job).params.quorum;
        if (seed % 4 == 0 || (seed >> 4) % 4 == 0 || timeNow > s.serveBy) {
            pass(s.serveBy);
            try jobs.redraw(id) {} catch {}
        } else {
            serve(id, first(who, quorum + (seed >> 8) % (who.length - quorum + 1)));
        }
    }

    /// The chunk is not looked for: each end is tried.
    function showOrNot(uint64 id, Segment memory s, uint256 seed) internal {
        if (seed % 3 == 0) {
            pass(s.serveBy);
            try jobs.redraw(id) {} catch {}
            return;
        }
        mine(3);
        bytes32[] memory all = linkEnds(id, s.stop);
        for (uint64 place = 0; place < all.length; ++place) {
            try jobs.show(id, Shown.proof(id, all, place)) {
                ++shown;
                break;
            } catch {}
        }
    }

    function linkEnds(uint64 id, uint64 stop) internal view override returns (bytes32[] memory all) {
        uint64 start = jobs.segment(id).start;
        all = new bytes32[]((stop - start) * (MICROS + 1));
        for (uint64 i = 0; i < all.length; ++i) {
            all[i] = Shown.end(id, start, i, MICROS);
        }
    }

    /// Each verifier by two bits: honest, says no, vanishes before it seals, vanishes after it sealed (or before it opens).
    function votes(uint64 id, uint256 seed) internal {
        Segment memory s = jobs.segment(id);
        address[] memory who = committee(id);
        if (s.phase == Phase.SEAL && timeNow <= s.sealBy) {
            for (uint256 i = 0; i < who.length; ++i) {
                if (mood(seed, i) != 2) seal(id, ballot(id, who[i], seed, i));
            }
        }
        s = jobs.segment(id);
        if (s.phase == Phase.SEAL) pass(s.sealBy);
        if (seed & 4 == 4) {
            mine(3);
            for (uint256 i = 0; i < who.length; ++i) {
                if (mood(seed, i) < 2) try this.openFor(id, who[i], mood(seed, i)) {} catch {}
            }
            s = jobs.segment(id);
            if (s.state != SegmentState.SERVED) return;
        }
        if (s.phase != Phase.OPEN) {
            for (uint256 i = 0; i < who.length && timeNow <= jobs.segment(id).revealBy; ++i) {
                if (mood(seed, i) < 2 || (mood(seed, i) == 3 && seed & 1 == 1)) {
                    try this.revealFor(id, ballot(id, who[i], seed, i)) {} catch {}
                }
            }
            if (jobs.segment(id).phase != Phase.OPEN) {
                pass(jobs.segment(id).revealBy);
                jobs.closeReveals(id);
            }
        }
        mine(3);
        for (uint256 i = 0; i < who.length; ++i) {
            if (mood(seed, i) < 2) try this.openFor(id, who[i], mood(seed, i)) {} catch {}
        }
        if (seed & 2 == 2) pass(jobs.segment(id).openBy);
        try jobs.decide(id) {} catch {}
    }

    function mood(uint256 seed, uint256 i) internal pure returns (uint256) {
        uint256 bits = (seed >> (16 + 4 * i)) % 16;
        return bits < 9 ? 0 : bits < 12 ? 1 : bits < 14 ? 2 : 3;
    }

    function ballot(uint64 id, address who, uint256 seed, uint256 i) internal view returns (Reveal memory) {
        return vote(id, who, mood(seed, i) != 1, mood(seed, i) == 1 ? 1 : 0);
    }

    function assignFor(uint256 seed) external {
        assertEq(msg.sender, address(this), "a step of its own");
        assignNext(seed);
    }

    function revealFor(uint64 id, Reveal calldata v) external {
        assertEq(msg.sender, address(this), "a step of its own");
        reveal(id, v);
    }

    function openFor(uint64 id, address who, uint256 story) external {
        assertEq(msg.sender, address(this), "a step of its own");
        reveal(id, fullVote(id, who, story == 0, story));
    }

    function voidSegment(uint256 seed) public guarded(address(0)) {
        for (uint64 id = 1; id <= jobs.segmentCount(); ++id) {
            if ((seed >> (id % 64)) & 1 == 0) try jobs.voidSegment(id) {} catch {}
        }
    }

    // ---- disputes ------------------------------------------------------------------------------------------------------------

    function dispute(uint256 seed) public guarded(address(0)) {
        uint64 id = segmentOf(seed);
        if (id == 0) return;
        // As often one that failed: it may be disputed for as long as its bond is reserved.
        if ((seed >> 64) % 2 == 0) id = failedOne(id);
        Segment memory s = jobs.segment(id);
        uint256 what = (seed >> 32) % 8;
        if (what < 2) {
            disputes.opened(id);
        } else if (what < 4) {
            disputes.resolved(id, false);
        } else if (what < 6) {
            if (what == 5 && s.disputes == 0) disputes.opened(id);
            disputes.resolved(id, true);
            if (s.feesHeld > 0 && s.state == SegmentState.WITHHELD) borneOut[id] = true;
        } else if (what == 6) {
            disputes.clear(id);
            if (s.state == SegmentState.WITHHELD && jobs.job(s.job).closed) refunds += s.feesHeld;
        } else if (s.state == SegmentState.REJECTED || s.state == SegmentState.WITHHELD) {
            uint128 reserved = stakes.reservation(s.provider, id);
            if (reserved > 0) disputes.slash(s.provider, id, reserved, reserved - reserved / 4);
        }
    }

    /// A challenger wins against one that stands; rather one that others build on, so that they fall with it.
    function reject(uint256 seed) public guarded(address(0)) {
        uint64 found = 0;
        for (uint64 id = 1; id <= jobs.segmentCount(); ++id) {
            Segment memory s = jobs.segment(id);
            bool stands = s.state >= SegmentState.DRAWN && s.state <= SegmentState.ATTESTED;
            if (stands && (s.child != 0 || (found == 0 && seed % 4 == 0))) found = id;
        }
        if (found == 0) return;
        disputes.opened(found);
        disputes.resolved(found, true);
    }

    /// The first before `id` that is WITHHELD or UNPAID; `id` when there is none.
    function failedOne(uint64 id) internal view returns (uint64) {
        for (uint64 i = id; i > 0; --i) {
            SegmentState state = jobs.segment(i).state;
            if (state == SegmentState.WITHHELD || state == SegmentState.UNPAID) return i;
        }
        return id;
    }

    // ---- what nobody may do --------------------------------------------------------------------------------------------------

    function trespass(uint256 seed) public guarded(address(0)) {
        address who = actorOf(seed);
        uint64 id = segmentOf(seed >> 16);
        address victim = actorOf(seed >> 8);
        bytes[6] memory calls = [
            abi.encodeCall(stakes.charge, (victim, id, 1, "mine")),
            abi.encodeCall(stakes.slash, (victim, id, 1, 0)),
            abi.encodeCall(stakes.bind, (who, who)),
            abi.encodeCall(jobs.seize, (id, victim, 1)),
            abi.encodeCall(jobs.disputeOpened, (id)),
            abi.encodeCall(jobs.disputeResolved, (id, true))
        ];
        for (uint256 i = 0; i < calls.length; ++i) {
            vm.prank(who);
            (bool ok,) = (i < 3 ? address(stakes) : address(jobs)).call(calls[i]);
            check(!ok, "not its to call");
        }
    }

    function wait(uint256 seed) public guarded(address(0)) {
        timeNow += seed % 400;
        mine(1 + (seed >> 16) % 300);
    }

    // ---- for the invariants --------------------------------------------------------------------------------------------------

    function actorCount() external view returns (uint256) {
        return actors.length;
    }

    function network()
        external
        view
        returns (address token_, address stakes_, address jobs_, address disputes_, uint128 seatStake)
    {
        return (address(token), address(stakes), address(jobs), address(disputes), SEAT_STAKE);
    }

    function seats(address who) external view returns (uint256) {
        return seatsOf[who];
    }
}
