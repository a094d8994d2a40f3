// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Jobs} from "../../src/Jobs.sol";
import {Segments} from "../../src/jobs/Segments.sol";
import {Appeals} from "../../src/jobs/Appeals.sol";
import {Checks} from "../../src/jobs/Checks.sol";
import {Escrow} from "../../src/jobs/Escrow.sol";
import {Stakes} from "../../src/Stakes.sol";
import {TestToken} from "../../src/TestToken.sol";
import {IJobs} from "../../src/interfaces/IJobs.sol";
import {Hashes} from "../../src/libraries/Hashes.sol";
import {Check, KeyRelease, Offer, Opening, Params, Reveal, SealedVote, SegmentState, Terms} from "../../src/types/Types.sol";
import {Test} from "./Test.sol";
import {ToldDisputes} from "./ToldDisputes.sol";
import {Trees} from "./Trees.sol";

/// A network with a client, providers and verifiers, and a step for everything that they do. A trace tree has MICRO_LEAVES or
/// UPDATE_LEAVES leaves; an honest
/// vote opens the tree `trace(unit)`.
abstract contract Network is Test {
    uint32 internal constant MICRO_LEAVES = 5;
    uint32 internal constant UPDATE_LEAVES = 9;
    uint32 internal constant MICROS = 2;
    uint64 internal constant STEPS = 10;
    uint32 internal constant SEGMENT_STEPS = 4;
    uint128 internal constant SEAT_STAKE = 50e6;
    uint128 internal constant DRAW_BOND = 10e6;
    uint128 internal constant PRICE = 40e6;
    uint128 internal constant FEE = 1e6;
    uint128 internal constant BUDGET = 500e6;
    uint64 internal constant UNBOND = 1 days;
    address internal constant BURN = 0x000000000000000000000000000000000000dEaD;

    TestToken internal token;
    Stakes internal stakes;
    IJobs internal jobs;
    ToldDisputes internal disputes;

    uint256 internal constant CLIENT_KEY = 0xC1;
    uint256 internal constant PROVIDER_KEY = 0xA1;
    uint256 internal constant OTHER_KEY = 0xA2;
    uint256 internal constant VERIFIER_KEY = 0xE0;
    uint256 internal constant VERIFIERS = 6;
    address internal client = vm.addr(CLIENT_KEY);
    address internal provider = vm.addr(PROVIDER_KEY);
    address internal other = vm.addr(OTHER_KEY);
    address internal scheduler = address(0x5C);
    address internal keyService = address(0xCE);
    address internal stranger = address(0x57);

    uint256 internal nonces;
    uint256 internal blockNow = 1000;
    uint256 internal timeNow = 1_800_000_000;

    function setUp() public virtual {
        vm.roll(blockNow);
        vm.warp(timeNow);
        token = new TestToken();
        stakes = new Stakes(address(token), SEAT_STAKE, UNBOND);
        Segments segments = new Segments(address(stakes));
        Checks checks = new Checks(address(stakes));
        address books = address(new Escrow(address(stakes)));
        address appeals = address(new Appeals(address(stakes)));
        jobs = IJobs(address(new Jobs(address(stakes), address(segments), address(checks), books, appeals)));
        stakes.bind(address(jobs), deployDisputes());
        enrol(client, 0);
        enrol(provider, 2000e6);
        enrol(other, 2000e6);
        for (uint256 i = 0; i < verifiers(); ++i) {
            enrol(verifier(i), 200e6);
            vm.prank(verifier(i));
            stakes.takeSeat();
        }
        mine(1);
    }

    /// What Stakes binds: a contract that does what it is told.
    function deployDisputes() internal virtual returns (address) {
        disputes = new ToldDisputes(jobs, stakes);
        return address(disputes);
    }

    // ---- time ----------------------------------------------------------------------------------------------------------------

    /// `count` more blocks, a second each.
    function mine(uint256 count) internal {
        blockNow += count;
        timeNow += count;
        vm.roll(blockNow);
        vm.warp(timeNow);
        hashes(blockNow);
    }

    /// Blocks have hashes that depend on their numbers only.
    function hashes(uint256 head) internal {
        for (uint256 i = 1; i <= 8 && i < head; ++i) {
            vm.setBlockhash(head - i, hashOf(head - i));
        }
    }

    function hashOf(uint256 number) internal pure returns (bytes32) {
        return keccak256(abi.encode("block", number));
    }

    /// To the second after `time`, in the next block.
    function pass(uint256 time) internal {
        if (time >= timeNow) timeNow = time;
        mine(1);
    }

    // ---- actors --------------------------------------------------------------------------------------------------------------

    /// How many there are.
    function verifiers() internal pure virtual returns (uint256) {
        return VERIFIERS;
    }

    function verifier(uint256 i) internal pure returns (address) {
        return vm.addr(VERIFIER_KEY + i);
    }

    function keyOf(address who) internal view returns (uint256) {
        if (who == client) return CLIENT_KEY;
        if (who == provider) return PROVIDER_KEY;
        if (who == other) return OTHER_KEY;
        for (uint256 i = 0; i < verifiers(); ++i) {
            if (who == verifier(i)) return VERIFIER_KEY + i;
        }
        revert Untrue("an actor's key");
    }

    function enrol(address who, uint128 stake) internal {
        token.mint(who, 5000e6);
        vm.startPrank(who);
        token.approve(address(stakes), type(uint256).max);
        token.approve(address(jobs), type(uint256).max);
        stakes.register(keccak256(abi.encode(who)), "12D3KooWExample");
        if (stake > 0) stakes.deposit(stake);
        vm.stopPrank();
    }

    function signed(uint256 key, bytes32 structHash) internal view returns (bytes memory) {
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", jobs.domainSeparator(), structHash));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    // ---- a job ---------------------------------------------------------------------------------------------------------------

    function params() internal pure returns (Params memory p) {
        p.finality = 2;
        p.activateWindow = 100;
        p.leaseWindow = 1000;
        p.takeoverWindow = 300;
        p.serveWindow = 100;
        p.sealWindow = 200;
        p.revealWindow = 100;
        p.openWindow = 100;
        p.challengeWindow = 500;
        p.links = 2;
        p.verifiers = 3;
        p.quorum = 2;
        p.openings = 2;
        p.redraws = 2;
        p.depth = 2;
        p.bondTenths = 60;
        p.lateFeeBps = 500;
        p.noShowBps = 1000;
        p.drawBond = DRAW_BOND;
    }

    function terms() internal view virtual returns (Terms memory t) {
        t.spec = cid("spec");
        t.specDigest = keccak256("spec");
        t.programRoot = keccak256("program");
        t.stateRoot = keccak256("state");
        t.datasetRoot = keccak256("dataset");
        t.scheduleRoot = keccak256("schedule");
        t.steps = STEPS;
        t.microBatches = MICROS;
        t.segmentSteps = SEGMENT_STEPS;
        t.microWeight = 3;
        t.updateWeight = 1;
        t.microLeaves = microLeaves();
        t.updateLeaves = UPDATE_LEAVES;
        t.priceCap = 10e6;
        t.fee = FEE;
        t.budget = BUDGET;
        t.deadline = uint64(timeNow + 30 days);
        t.scheduler = scheduler;
        t.keyService = keyService;
        t.params = params();
    }

    function cid(string memory name) internal pure returns (bytes memory) {
        return abi.encodePacked(hex"01551220", sha256(bytes(name)));
    }

    function post() internal returns (uint64) {
        Terms memory t = terms();
        vm.prank(client);
        return jobs.post(t);
    }

    function offerOf(address by, uint64 job, uint64 parent, uint128 price) internal returns (Offer memory o) {
        uint64 start = parent == 0 ? 0 : jobs.segment(parent).stop;
        uint64 stop = (start / SEGMENT_STEPS + 1) * SEGMENT_STEPS;
        uint64 steps = jobs.job(job).steps;
        o = Offer(by, job, parent, start, stop > steps ? steps : stop, price, uint64(timeNow + 60), ++nonces);
    }

    function offerHash(Offer memory o) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256(
                    "Offer(address provider,uint64 job,uint64 parent,uint64 start,uint64 stop,uint128 price,uint64 expires,uint256 nonce)"
                ),
                o
            )
        );
    }

    function signOffer(Offer memory o) internal view returns (bytes memory) {
        return signed(keyOf(o.provider), offerHash(o));
    }

    function assigned(address by, uint64 job, uint64 parent) internal returns (uint64) {
        Offer memory o = offerOf(by, job, parent, PRICE);
        if (o.stop - o.start < SEGMENT_STEPS) o.price = PRICE * (o.stop - o.start) / SEGMENT_STEPS;
        bytes memory signature = signOffer(o);
        vm.prank(scheduler);
        return jobs.assign(o, signature);
    }

    function activated(address by, uint64 job, uint64 parent) internal returns (uint64 id) {
        id = assigned(by, job, parent);
        vm.prank(by);
        jobs.activate(id);
    }

    /// Link ends of a segment: the i-th is a word of its own.
    function linkEnds(uint64 id, uint64 stop) internal view virtual returns (bytes32[] memory ends) {
        ends = new bytes32[]((stop - jobs.segment(id).start) * (MICROS + 1));
        for (uint256 i = 0; i < ends.length; ++i) {
            ends[i] = keccak256(abi.encode("link end", id, i));
        }
    }

    function commitTo(uint64 id, uint64 stop) internal {
        bytes32[] memory ends = linkEnds(id, stop);
        (bytes32 root, bytes32[] memory proof) = Trees.build(ends, ends.length - 1);
        address by = jobs.segment(id).provider;
        bytes memory checkpoint = cid("checkpoint");
        vm.prank(by);
        jobs.commit(id, stop, root, ends[ends.length - 1], proof, checkpoint, keccak256("key"), new bytes(80));
    }

    function committed(uint64 job, uint64 parent) internal returns (uint64 id) {
        id = activated(provider, job, parent);
        commitTo(id, jobs.segment(id).stop);
    }

    function drawn(uint64 job, uint64 parent) internal returns (uint64 id) {
        id = committed(job, parent);
        mine(3);
        jobs.draw(id);
    }

    // ---- a committee ---------------------------------------------------------------------------------------------------------

    function committee(uint64 id) internal view returns (address[] memory who) {
        Check[] memory checks = jobs.checksOf(id, jobs.segment(id).round);
        who = new address[](checks.length);
        for (uint256 i = 0; i < who.length; ++i) {
            who[i] = checks[i].verifier;
        }
    }

    function first(address[] memory who, uint256 count) internal pure returns (address[] memory some) {
        some = new address[](count);
        for (uint256 i = 0; i < count; ++i) {
            some[i] = who[i];
        }
    }

    function receipt(uint64 id, address who) internal view returns (bytes memory) {
        bytes32 structHash = keccak256(abi.encode(keccak256("Receipt(uint64 segment,uint32 round)"), id, jobs.segment(id).round));
        return signed(keyOf(who), structHash);
    }

    function serve(uint64 id, address[] memory who) internal {
        bytes[] memory signatures = new bytes[](who.length);
        for (uint256 i = 0; i < who.length; ++i) {
            signatures[i] = receipt(id, who[i]);
        }
        jobs.served(id, who, signatures);
    }

    function releaseKeys(uint64 id, address by, address[] memory who) internal {
        KeyRelease[] memory releases = new KeyRelease[](who.length);
        for (uint256 i = 0; i < who.length; ++i) {
            releases[i] = KeyRelease(who[i], keccak256("key"), new bytes(80));
        }
        vm.prank(by);
        jobs.release(id, releases);
    }

    function served(uint64 job, uint64 parent) internal returns (uint64 id) {
        id = drawn(job, parent);
        serve(id, committee(id));
    }

    function microLeaves() internal pure virtual returns (uint32) {
        return MICRO_LEAVES;
    }

    function updateLeaves() internal pure virtual returns (uint32) {
        return UPDATE_LEAVES;
    }

    /// Leaves of the trace of one unit as a verifier of the given story sees it: story 0 is the truth.
    function trace(uint64 id, uint64 unit, uint256 story) internal pure returns (bytes32[] memory items) {
        items = new bytes32[](unit % (MICROS + 1) == MICROS ? updateLeaves() : microLeaves());
        for (uint256 i = 0; i < items.length; ++i) {
            items[i] = keccak256(abi.encode("trace", id, unit, i, story));
        }
    }

    function traceRoots(uint64 id, uint256 story) internal view virtual returns (bytes32[] memory roots) {
        uint64[] memory units = jobs.unitsOf(id);
        roots = new bytes32[](units.length);
        for (uint256 i = 0; i < roots.length; ++i) {
            roots[i] = Trees.root(trace(id, units[i], story));
        }
    }

    function vote(uint64 id, address who, bool agrees, uint256 story) internal view returns (Reveal memory) {
        return Reveal(who, agrees, traceRoots(id, story), keccak256(abi.encode("salt", id, who)), new Opening[](0));
    }

    /// The same vote with its openings.
    function fullVote(uint64 id, address who, bool agrees, uint256 story) internal view returns (Reveal memory v) {
        v = vote(id, who, agrees, story);
        v.openings = openingsOf(id, who, story);
    }

    function digestOf(uint64 id, Reveal memory v) internal view returns (bytes32) {
        return sha256(
            abi.encodePacked(
                bytes1(0x23), block.chainid, address(jobs), id, jobs.segment(id).round, v.agrees, v.traceRoots, v.verifier, v.salt
            )
        );
    }

    function sealOf(uint64 id, Reveal memory v) internal view returns (SealedVote memory) {
        bytes32 digest = digestOf(id, v);
        bytes32 structHash = keccak256(
            abi.encode(keccak256("Seal(uint64 segment,uint32 round,bytes32 digest)"), id, jobs.segment(id).round, digest)
        );
        return SealedVote(v.verifier, digest, signed(keyOf(v.verifier), structHash));
    }

    function seal(uint64 id, Reveal memory v) internal {
        SealedVote[] memory seals = new SealedVote[](1);
        seals[0] = sealOf(id, v);
        jobs.attest(id, seals);
    }

    function reveal(uint64 id, Reveal memory v) internal {
        Reveal[] memory reveals = new Reveal[](1);
        reveals[0] = v;
        jobs.reveal(id, reveals);
    }

    function openingsOf(uint64 id, address who, uint256 story) internal view virtual returns (Opening[] memory openings) {
        bytes32 hash = jobs.openingSeed(id);
        uint64[] memory units = jobs.unitsOf(id);
        openings = new Opening[](jobs.job(jobs.segment(id).job).params.openings);
        for (uint32 j = 0; j < openings.length; ++j) {
            uint256 x = Hashes.opening(hash, id, who, j);
            bytes32[] memory items = trace(id, units[x % units.length], story);
            uint256 leaf = (x / units.length) % items.length;
            (, bytes32[] memory proof) = Trees.build(items, leaf);
            openings[j] = Opening(items[leaf], proof);
        }
    }

    function open(uint64 id, address who, uint256 story) internal {
        reveal(id, fullVote(id, who, true, story));
    }

    /// A whole committee votes: `stories[i]` is what the i-th verifier saw (0: the truth), 255 that it does nothing; `no` has bit i set
    /// when it disagrees. The last opening decides the round.
    function voted(uint64 id, uint8[3] memory stories, uint8 no) internal {
        address last = almostVoted(id, stories, no);
        for (uint256 i = 0; last != address(0) && i < 3; ++i) {
            if (committee(id)[i] == last) return open(id, last, stories[i]);
        }
    }

    /// All but the last opening; whose it is (nobody's: nobody has revealed, and the round is decided).
    function almostVoted(uint64 id, uint8[3] memory stories, uint8 no) internal returns (address last) {
        address[] memory who = committee(id);
        uint8 told;
        bool all = true;
        for (uint256 i = 0; i < who.length; ++i) {
            if (stories[i] == 255) all = false;
            else seal(id, vote(id, who[i], (no >> i) & 1 == 0, stories[i]));
        }
        if (!all) pass(jobs.segment(id).sealBy);
        bool any = false;
        for (uint256 i = 0; i < who.length; ++i) {
            if (stories[i] == 255) continue;
            any = true;
            reveal(id, vote(id, who[i], (no >> i) & 1 == 0, stories[i]));
        }
        if (!any) {
            jobs.closeReveals(id);
            return address(0);
        }
        mine(3);
        for (uint256 i = 0; i < who.length; ++i) {
            if (stories[i] == 255) continue;
            if (last != address(0)) open(id, last, told);
            (last, told) = (who[i], stories[i]);
        }
    }

    function attested(uint64 job, uint64 parent) internal returns (uint64 id) {
        id = served(job, parent);
        voted(id, [0, 0, 0], 0);
    }

    function settled(uint64 job, uint64 parent) internal returns (uint64 id) {
        id = attested(job, parent);
        pass(jobs.segment(id).settleAfter);
        jobs.settle(id);
    }

    function withheld(uint64 job, uint64 parent) internal returns (uint64 id) {
        id = served(job, parent);
        voted(id, [1, 1, 0], 3);
    }

    // ---- looking -------------------------------------------------------------------------------------------------------------

    function stateOf(uint64 id) internal view returns (SegmentState) {
        return jobs.segment(id).state;
    }

    function assertState(uint64 id, SegmentState expected) internal view {
        assertEq(uint256(stateOf(id)), uint256(expected), "state");
    }

    function escrow(uint64 job) internal view returns (uint128) {
        return jobs.job(job).escrow;
    }

    /// All fees that assigning a segment reserves.
    uint128 internal constant FEES = FEE * 3 * 3;
}
