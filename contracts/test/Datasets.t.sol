// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Datasets} from "../src/Datasets.sol";
import {IDatasets, IDatasetsLog, JobUse, Licence} from "../src/interfaces/IDatasets.sol";
import {IJobsLog} from "../src/interfaces/IJobs.sol";
import {IStakes} from "../src/interfaces/IStakes.sol";
import {Hashes} from "../src/libraries/Hashes.sol";
import {Offer, SegmentState, Terms} from "../src/types/Types.sol";
import {SkimmingToken} from "./Stakes.t.sol";
import {Network} from "./utils/Network.sol";

/// Datasets with licences, jobs that rest on them, and what their owners earn. Job: STEPS steps of MICROS micro-batches of BATCH records.
abstract contract Licensing is Network {
    uint64 internal constant ENDLESS = type(uint64).max;
    uint32 internal constant BATCH = 8;
    uint64 internal constant READS = STEPS * MICROS * BATCH;
    uint64 internal constant EACH_PRICE = 3_333;
    bytes32 internal constant ROOT = keccak256("shards");

    IDatasets internal datasets;
    address internal alice = address(0xA11CE);
    address internal bob = address(0xB0B);
    bytes internal head;

    function setUp() public virtual override {
        super.setUp();
        datasets = new Datasets(address(jobs));
        stakes.bindDatasets(address(datasets));
        vm.prank(client);
        token.approve(address(datasets), type(uint256).max);
        head = headOf(100, ROOT);
    }

    function headOf(uint64 records, bytes32 root) internal pure returns (bytes memory) {
        return abi.encodePacked(bytes1(0x17), keccak256("order"), BATCH, records, uint32(4), root, hex"0000");
    }

    function terms() internal view virtual override returns (Terms memory t) {
        t = super.terms();
        t.datasetRoot = sha256(head);
    }

    /// Of Alice, who has a quarter, and Bob.
    function published(uint64 records, bytes32 root) internal returns (uint64) {
        address[] memory owners = new address[](2);
        uint16[] memory shares = new uint16[](2);
        (owners[0], owners[1], shares[0], shares[1]) = (alice, bob, 2500, 7500);
        bytes memory c = cid("manifest"); // a hash by a precompile would use up the prank
        vm.prank(alice);
        return datasets.publish(c, keccak256("manifest"), root, records, keyService, owners, shares);
    }

    function granted(uint64 id, address who, uint64 uses, uint16 purposes) internal {
        vm.prank(alice);
        datasets.grant(id, who, EACH_PRICE, uses, uint64(timeNow + 10 days), purposes);
    }

    function revoked(uint64 id, address who) internal {
        vm.prank(alice);
        datasets.revoke(id, who);
    }

    function usesOf(uint64 id, uint8 purpose, uint128 most) internal view returns (bytes memory) {
        uint64[] memory ids = new uint64[](1);
        ids[0] = id;
        return abi.encode(ids, head, purpose, most, lists(1));
    }

    /// So many, all of them number 0.
    function lists(uint256 count) internal pure returns (uint32[] memory) {
        return new uint32[](count);
    }

    function postOn(bytes memory uses) internal returns (uint64) {
        Terms memory t = terms();
        vm.prank(client);
        return jobs.postLicensed(t, uses);
    }

    function refusedOn(bytes memory uses, bytes memory reason) internal {
        Terms memory t = terms();
        uint256 had = token.balanceOf(client);
        vm.prank(client);
        vm.expectRevert(reason);
        jobs.postLicensed(t, uses);
        assertEq(token.balanceOf(client), had, "nothing was taken");
    }

    function due(uint64 steps) internal pure returns (uint256) {
        return uint256(steps) * MICROS * BATCH * EACH_PRICE / 1000;
    }

    function refusedAssignment(uint64 job, uint64 parent, bytes memory reason) internal {
        Offer memory o = offerOf(provider, job, parent, PRICE);
        bytes memory signature = signOffer(o);
        vm.prank(scheduler);
        vm.expectRevert(reason);
        jobs.assign(o, signature);
    }
}

contract DatasetsTest is Licensing {
    function test_owners_are_paid_once_for_what_settled_and_the_rest_comes_back() public {
        uint64 id = published(100, ROOT);
        granted(id, client, READS + 5, 0);
        uint256 had = token.balanceOf(client);
        uint64 job = postOn(usesOf(id, 3, uint128(due(STEPS))));
        assertEq(token.balanceOf(address(datasets)), due(STEPS), "locked for the whole job");
        assertEq(had - token.balanceOf(client), BUDGET + due(STEPS), "beside the budget");
        assertEq(datasets.licence(id, client).left, 5, "uses are taken when the job is posted");
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.NothingToCollect.selector, job));
        datasets.collect(job, 9);

        uint64 segment = settled(job, 0);
        datasets.collect(job, 9);
        vm.snapshotGasLastCall("Datasets", "collect, one segment");
        assertEq(datasets.dataset(id).earned, due(4), "four steps");
        assertEq(datasets.revenue(id, alice), due(4) / 4, "a quarter");
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.NothingToCollect.selector, job));
        datasets.collect(job, 9);
        vm.prank(alice);
        datasets.withdraw(id);
        assertEq(token.balanceOf(alice), due(4) / 4, "pulled");
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.NothingToWithdraw.selector, alice));
        datasets.withdraw(id);
        vm.prank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.NothingToWithdraw.selector, stranger));
        datasets.withdraw(id);

        segment = withheld(job, segment);
        assertState(segment, SegmentState.WITHHELD);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.NothingToCollect.selector, job));
        datasets.collect(job, 9);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.JobIsOpen.selector, job));
        datasets.refund(job);
        vm.prank(client);
        jobs.cancel(job);
        jobs.close(job);
        had = token.balanceOf(client);
        datasets.refund(job);
        assertEq(token.balanceOf(client) - had, due(STEPS) - due(4), "what did not settle");
        assertEq(datasets.licence(id, client).left, 5 + READS - 4 * MICROS * BATCH, "and its uses");
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.AlreadyRefunded.selector, job));
        datasets.refund(job);
        vm.prank(bob);
        datasets.withdraw(id);
        assertTrue(token.balanceOf(address(datasets)) <= 1, "only what rounding leaves");
    }

    function test_what_settled_before_the_refund_is_paid_by_the_refund() public {
        uint64 id = published(100, ROOT);
        granted(id, address(0), ENDLESS, 0);
        uint64 job = postOn(usesOf(id, 0, type(uint128).max));
        settled(job, settled(job, settled(job, 0)));
        jobs.close(job);
        datasets.refund(job);
        assertEq(datasets.dataset(id).earned, due(STEPS), "all of it");
        assertEq(datasets.useOf(job).escrow, 0, "nothing is left");
        assertEq(datasets.licence(id, address(0)).left, ENDLESS, "endless stays endless");
    }

    function test_no_job_is_funded_without_the_licence() public {
        uint64 id = published(100, ROOT);
        refusedOn(usesOf(id, 0, type(uint128).max), abi.encodeWithSelector(IDatasetsLog.NoLicence.selector, id, client));
        granted(id, other, ENDLESS, 0);
        refusedOn(usesOf(id, 0, type(uint128).max), abi.encodeWithSelector(IDatasetsLog.NoLicence.selector, id, client));
        granted(id, client, READS - 1, 0);
        refusedOn(
            usesOf(id, 0, type(uint128).max), abi.encodeWithSelector(IDatasetsLog.UsesExhausted.selector, id, READS - 1, READS)
        );
        granted(id, client, READS, 1 << 3);
        refusedOn(usesOf(id, 2, type(uint128).max), abi.encodeWithSelector(IDatasetsLog.WrongPurpose.selector, id, 2));
        refusedOn(usesOf(id, 255, type(uint128).max), abi.encodeWithSelector(IDatasetsLog.WrongPurpose.selector, id, 255));
        refusedOn(
            usesOf(id, 3, uint128(due(STEPS)) - 1),
            abi.encodeWithSelector(IDatasetsLog.DataOverMost.selector, due(STEPS), uint128(due(STEPS)) - 1)
        );
        pass(timeNow + 10 days);
        refusedOn(usesOf(id, 3, type(uint128).max), abi.encodeWithSelector(IDatasetsLog.NoLicence.selector, id, client));
        granted(id, client, READS, 1 << 3);
        postOn(usesOf(id, 3, type(uint128).max));
        refusedOn(usesOf(id, 3, type(uint128).max), abi.encodeWithSelector(IDatasetsLog.UsesExhausted.selector, id, 0, READS));
        refusedOn(usesOf(9, 3, type(uint128).max), abi.encodeWithSelector(IDatasetsLog.NoSuchDataset.selector, 9));
    }

    function test_the_data_of_the_job_are_those_that_are_licensed() public {
        uint64 id = published(100, keccak256("others"));
        granted(id, address(0), ENDLESS, 0);
        bytes memory reason = abi.encodeWithSelector(IDatasetsLog.OtherData.selector, 1);
        refusedOn(usesOf(id, 0, type(uint128).max), reason);
        uint64 fewer = published(99, ROOT);
        granted(fewer, address(0), ENDLESS, 0);
        refusedOn(usesOf(fewer, 0, type(uint128).max), reason);
        uint64 good = published(100, ROOT);
        granted(good, address(0), ENDLESS, 0);
        uint64[] memory ids = new uint64[](1);
        ids[0] = good;
        refusedOn(abi.encode(ids, headOf(100, keccak256("others")), uint8(0), type(uint128).max, lists(1)), reason);
        refusedOn(abi.encode(ids, new bytes(0), uint8(0), type(uint128).max, lists(1)), reason);
        refusedOn(
            abi.encode(new uint64[](0), head, uint8(0), type(uint128).max, lists(0)),
            abi.encodeWithSelector(IDatasetsLog.BadLength.selector, "datasets", 0, 16)
        );
        keyService = address(0xCF);
        refusedOn(
            usesOf(good, 0, type(uint128).max), abi.encodeWithSelector(IDatasetsLog.OtherKeyService.selector, good, address(0xCE))
        );
    }

    function test_several_datasets_are_paid_by_their_records() public {
        (uint64 one, uint64 two) = (published(30, keccak256("a")), published(70, keccak256("b")));
        granted(one, client, ENDLESS, 0);
        granted(two, address(0), ENDLESS, 0);
        uint64[] memory ids = new uint64[](2);
        (ids[0], ids[1]) = (one, two);
        uint64 job = postOn(abi.encode(ids, head, uint8(0), type(uint128).max, lists(2)));
        settled(job, 0);
        datasets.collect(job, 1);
        uint256 reads = 4 * MICROS * BATCH;
        assertEq(datasets.dataset(one).earned, reads * 30 * EACH_PRICE / (1000 * 100), "30 of 100");
        assertEq(datasets.dataset(two).earned, reads * 70 * EACH_PRICE / (1000 * 100), "70 of 100");
        revoked(two, address(0));
        refusedAssignment(job, 1, abi.encodeWithSelector(IDatasetsLog.NoLicence.selector, two, client));
    }

    function test_a_revocation_stops_the_next_range_and_nothing_before() public {
        uint64 id = published(100, ROOT);
        granted(id, client, ENDLESS, 1);
        uint64 job = postOn(usesOf(id, 0, type(uint128).max));
        uint64 segment = assigned(provider, job, 0);
        revoked(id, client);
        vm.prank(provider);
        jobs.activate(segment);
        commitTo(segment, 4);
        refusedAssignment(job, segment, abi.encodeWithSelector(IDatasetsLog.NoLicence.selector, id, client));
        mine(3);
        jobs.draw(segment);
        serve(segment, committee(segment));
        voted(segment, [0, 0, 0], 0);
        pass(jobs.segment(segment).settleAfter);
        jobs.settle(segment);
        datasets.collect(job, 1);
        assertEq(datasets.dataset(id).earned, due(4), "what was assigned is paid");
        granted(id, client, ENDLESS, 1); // a new licence is none that the job rests on
        refusedAssignment(job, segment, abi.encodeWithSelector(IDatasetsLog.NoLicence.selector, id, client));
        vm.prank(client);
        jobs.cancel(job);
        jobs.close(job);
        uint256 had = token.balanceOf(client);
        datasets.refund(job);
        assertEq(token.balanceOf(client) - had, due(STEPS) - due(4), "the rest comes back");
    }

    function test_a_licence_that_is_prolonged_goes_on_and_one_that_ends_does_not() public {
        uint64 id = published(100, ROOT);
        granted(id, client, READS, 0);
        uint64 job = postOn(usesOf(id, 0, type(uint128).max));
        pass(timeNow + 10 days);
        refusedAssignment(job, 0, abi.encodeWithSelector(IDatasetsLog.NoLicence.selector, id, client));
        granted(id, client, 7, 0);
        assigned(provider, job, 0);
        vm.prank(client);
        jobs.cancel(job);
        pass(timeNow + 200);
        jobs.lapse(1);
        jobs.close(job);
        datasets.refund(job);
        assertEq(datasets.licence(id, client).left, 7, "uses of an earlier grant do not come back");
    }

    function test_publishing_and_granting_are_the_owners() public {
        address[] memory owners = new address[](2);
        uint16[] memory shares = new uint16[](2);
        (owners[0], owners[1], shares[0], shares[1]) = (alice, bob, 5000, 4999);
        bytes memory c = cid("manifest");
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.BadShares.selector, 9999));
        datasets.publish(c, 0, 0, 1, keyService, owners, shares);
        (owners[1], shares[1]) = (alice, 5000);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.BadShares.selector, 1));
        datasets.publish(c, 0, 0, 1, keyService, owners, shares);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.NotOwner.selector, address(this), 1));
        datasets.publish(c, 0, 0, 1, keyService, owners, shares);
        uint64 id = published(100, ROOT);
        vm.prank(bob); // a co-owner earns, and decides nothing
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.NotOwner.selector, bob, id));
        datasets.grant(id, bob, 0, 1, uint64(timeNow + 1), 0);
        vm.prank(bob);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.NotOwner.selector, bob, id));
        datasets.revoke(id, client);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.NoLicence.selector, id, client));
        datasets.revoke(id, client);
        vm.prank(alice);
        vm.expectPartialRevert(IDatasetsLog.BadTerm.selector);
        datasets.grant(id, client, 0, 1, uint64(timeNow - 1), 0);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.NotJobs.selector, address(this)));
        datasets.open(1, "");
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.NoUse.selector, 1));
        datasets.collect(1, 1);
    }

    function refusedPublishing(bytes memory reason, bytes memory c, uint64 records, address[] memory owners, uint16[] memory shares) internal {
        vm.prank(alice);
        vm.expectRevert(reason);
        datasets.publish(c, 0, 0, records, keyService, owners, shares);
    }

    function test_what_is_published_is_bounded() public {
        (address[] memory none, uint16[] memory nothing) = (new address[](0), new uint16[](0));
        (address[] memory one, uint16[] memory whole) = (new address[](1), new uint16[](1));
        (one[0], whole[0]) = (alice, 10_000);
        bytes memory c = cid("manifest");
        refusedPublishing(abi.encodeWithSelector(IDatasetsLog.BadLength.selector, "cid", 0, 64), "", 1, one, whole);
        refusedPublishing(abi.encodeWithSelector(IDatasetsLog.BadLength.selector, "cid", 65, 64), new bytes(65), 1, one, whole);
        refusedPublishing(abi.encodeWithSelector(IDatasetsLog.BadLength.selector, "owners", 0, 32), c, 1, none, nothing);
        refusedPublishing(abi.encodeWithSelector(IDatasetsLog.BadLength.selector, "owners", 33, 32), c, 1, new address[](33), whole);
        refusedPublishing(abi.encodeWithSelector(IDatasetsLog.BadLength.selector, "shares", 0, 1), c, 1, one, nothing);
        uint64 most = type(uint40).max;
        refusedPublishing(abi.encodeWithSelector(IDatasetsLog.BadTerm.selector, "records", 0, 1, most), c, 0, one, whole);
        refusedPublishing(abi.encodeWithSelector(IDatasetsLog.BadTerm.selector, "records", most + 1, 1, most), c, most + 1, one, whole);
        uint64 id = published(100, ROOT);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.BadTerm.selector, "uses", 0, 1, ENDLESS));
        datasets.grant(id, client, EACH_PRICE, 0, uint64(timeNow + 1), 0);
    }

    function test_refuses_a_token_that_takes_fees() public {
        uint64 id = published(100, ROOT);
        granted(id, client, READS, 0);
        bytes[] memory balances = new bytes[](2);
        (balances[0], balances[1]) = (abi.encode(0), abi.encode(due(STEPS) - 1));
        vm.mockCalls(address(token), abi.encodeCall(token.balanceOf, (address(datasets))), balances);
        refusedOn(
            usesOf(id, 0, type(uint128).max), abi.encodeWithSelector(IDatasetsLog.UnsupportedToken.selector, due(STEPS), due(STEPS) - 1)
        );
    }

    function test_datasets_are_bound_once_and_jobs_without_them_are_as_before() public {
        vm.expectRevert(IStakes.AlreadyBound.selector);
        stakes.bindDatasets(address(1));
        vm.prank(alice);
        vm.expectPartialRevert(IStakes.NotDeployer.selector);
        stakes.bindDatasets(address(1));
        uint64 job = post();
        settled(job, 0);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.NoUse.selector, job));
        datasets.collect(job, 1);
    }
}

/// Jobs on data whose owners say which verifiers may see them.
contract AdmissionsTest is Licensing {
    function namesOf(uint256 from, uint256 to) internal pure returns (address[] memory names) {
        names = new address[](to - from);
        for (uint256 i = from; i < to; ++i) {
            names[i - from] = verifier(i);
        }
        return sorted(names);
    }

    function sorted(address[] memory names) internal pure returns (address[] memory) {
        for (uint256 i = 0; i < names.length; ++i) {
            for (uint256 k = i; k > 0 && names[k] < names[k - 1]; --k) {
                (names[k], names[k - 1]) = (names[k - 1], names[k]);
            }
        }
        return names;
    }

    function admit(uint64 id, address[] memory names) internal {
        vm.prank(alice);
        datasets.admit(id, names);
    }

    /// Of one dataset, under its list of this number.
    function usesUnder(uint64 id, uint32 list) internal view returns (bytes memory) {
        (uint64[] memory ids, uint32[] memory numbers) = (new uint64[](1), new uint32[](1));
        (ids[0], numbers[0]) = (id, list);
        return abi.encode(ids, head, uint8(0), type(uint128).max, numbers);
    }

    /// A job on data that admit verifiers `from` to `to`.
    function jobFor(uint256 from, uint256 to) internal returns (uint64 id, uint64 job) {
        id = published(100, ROOT);
        granted(id, client, ENDLESS, 0);
        admit(id, namesOf(from, to));
        job = postOn(usesUnder(id, 1));
    }

    function isOn(address who, address[] memory names) internal pure returns (bool) {
        for (uint256 i = 0; i < names.length; ++i) {
            if (names[i] == who) return true;
        }
        return false;
    }

    function test_a_list_is_its_owners_in_ascending_order_and_bounded() public {
        uint64 id = published(100, ROOT);
        address[] memory names = namesOf(0, 3);
        vm.prank(bob);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.NotOwner.selector, bob, id));
        datasets.admit(id, names);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.NoSuchDataset.selector, 9));
        datasets.admit(9, names);
        (names[1], names[2]) = (names[2], names[1]);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.BadList.selector, 2));
        datasets.admit(id, names);
        names[2] = names[1];
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.BadList.selector, 2));
        datasets.admit(id, names);
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.BadList.selector, 0));
        datasets.admit(id, new address[](1));
        vm.prank(alice);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.BadLength.selector, "verifiers", 65, 64));
        datasets.admit(id, new address[](65));
        names = namesOf(0, 3);
        vm.expectEmit(true, true, true, true, address(datasets));
        emit IDatasetsLog.VerifiersAdmitted(id, 1, names);
        admit(id, names);
        assertEq(datasets.admitted(id, 1).length, 3, "kept");
        assertEq(datasets.dataset(id).list, 1, "the first list");
    }

    function test_a_job_is_taken_under_the_lists_that_its_client_has_seen_and_no_others() public {
        uint64 id = published(100, ROOT);
        granted(id, client, ENDLESS, 0);
        admit(id, namesOf(0, 3));
        refusedOn(usesOf(id, 0, type(uint128).max), abi.encodeWithSelector(IDatasetsLog.OtherList.selector, id, 1));
        uint64[] memory ids = new uint64[](1);
        ids[0] = id;
        refusedOn(
            abi.encode(ids, head, uint8(0), type(uint128).max, lists(2)),
            abi.encodeWithSelector(IDatasetsLog.BadLength.selector, "lists", 2, 1)
        );
        uint64 job = postOn(usesUnder(id, 1));
        assertEq(datasets.verifiersOf(job).length, 3, "its list");
        admit(id, namesOf(3, 6));
        assertTrue(isOn(verifier(0), datasets.verifiersOf(job)), "what was posted keeps its list");
        refusedOn(usesUnder(id, 1), abi.encodeWithSelector(IDatasetsLog.OtherList.selector, id, 2));
        admit(id, new address[](0));
        assertEq(datasets.verifiersOf(postOn(usesUnder(id, 3))).length, 0, "without names all are admitted again");
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.NoUse.selector, 9));
        datasets.verifiersOf(9);
    }

    /// Three of six are drawn at random without a list; with one of three it is always these, whoever else has how many seats.
    function test_only_who_is_on_the_list_is_drawn() public {
        (, uint64 job) = jobFor(1, 4);
        address[] memory names = namesOf(1, 4);
        token.mint(stranger, 5000e6);
        enrol(stranger, 5000e6);
        vm.startPrank(stranger);
        for (uint256 i = 0; i < 40; ++i) {
            stakes.takeSeat();
        }
        vm.stopPrank();
        uint64 id = drawn(job, 0);
        vm.snapshotGasLastCall("Datasets", "draw, of a list of three");
        for (uint256 round = 0; round < 2; ++round) {
            address[] memory who = committee(id);
            assertEq(who.length, 3, "a whole committee");
            for (uint256 i = 0; i < 3; ++i) {
                assertTrue(isOn(who[i], names), "on the list");
                assertEq(stakes.reservation(who[i], id), DRAW_BOND, "and bonded");
            }
            if (round == 1) break;
            pass(jobs.segment(id).serveBy);
            jobs.redraw(id); // nobody else is admitted: drawn again
            mine(3);
            jobs.draw(id);
        }
    }

    function test_the_order_follows_from_the_seed_and_those_not_drawn_before_come_first() public {
        (, uint64 job) = jobFor(0, 6);
        uint64 id = drawn(job, 0);
        address[] memory names = namesOf(0, 6);
        bytes32 seed = Hashes.seed(hashOf(jobs.segment(id).seedBlock), id, 0);
        for (uint256 i = 0; i < 6; ++i) {
            uint256 k = i + Hashes.slot(seed, uint32(i), uint64(6 - i));
            (names[i], names[k]) = (names[k], names[i]);
        }
        for (uint256 i = 0; i < 3; ++i) {
            assertEq(committee(id)[i], names[i], "the seed's order");
        }
        pass(jobs.segment(id).serveBy);
        jobs.redraw(id);
        mine(3);
        jobs.draw(id);
        for (uint256 i = 3; i < 6; ++i) {
            assertTrue(isOn(names[i], committee(id)), "the three who were not drawn before");
        }
    }

    function test_provider_client_and_who_has_no_stake_are_passed_over() public {
        vm.prank(provider);
        stakes.takeSeat();
        vm.startPrank(client);
        stakes.deposit(500e6);
        stakes.takeSeat();
        vm.stopPrank();
        uint64 dataset = published(100, ROOT);
        granted(dataset, client, ENDLESS, 0);
        address[] memory names = new address[](6);
        (names[0], names[1]) = (provider, client);
        for (uint256 i = 2; i < 6; ++i) {
            names[i] = verifier(i - 2);
        }
        admit(dataset, sorted(names));
        uint64 id = committed(postOn(usesUnder(dataset, 1)), 0);
        vm.startPrank(verifier(2));
        stakes.unbond(stakes.freeStake(verifier(2)));
        vm.stopPrank();
        mine(3);
        jobs.draw(id);
        assertEq(committee(id).length, 3, "verifiers 0, 1 and 3");
        assertTrue(!isOn(provider, committee(id)) && !isOn(client, committee(id)) && !isOn(verifier(2), committee(id)), "who is not able");
    }

    function test_a_job_on_several_lists_draws_from_what_they_share() public {
        (uint64 one, uint64 two) = (published(30, keccak256("a")), published(70, keccak256("b")));
        granted(one, client, ENDLESS, 0);
        granted(two, client, ENDLESS, 0);
        admit(one, namesOf(0, 4));
        admit(two, namesOf(2, 6));
        (uint64[] memory ids, uint32[] memory numbers) = (new uint64[](2), lists(2));
        (ids[0], ids[1], numbers[0], numbers[1]) = (one, two, 1, 1);
        // verifiers 2 and 3 are on both, and three are drawn
        refusedOn(
            abi.encode(ids, head, uint8(0), type(uint128).max, numbers), abi.encodeWithSelector(IDatasetsLog.TooFewAdmitted.selector, 2, 3)
        );
        admit(two, namesOf(1, 6));
        numbers[1] = 2;
        uint64 job = postOn(abi.encode(ids, head, uint8(0), type(uint128).max, numbers));
        address[] memory both = datasets.verifiersOf(job);
        assertEq(both.length, 3, "verifiers 1, 2 and 3");
        uint64 id = drawn(job, 0);
        for (uint256 i = 0; i < 3; ++i) {
            assertTrue(isOn(committee(id)[i], both) && isOn(committee(id)[i], namesOf(1, 4)), "on both");
        }
        admit(two, new address[](0));
        numbers[1] = 3;
        job = postOn(abi.encode(ids, head, uint8(0), type(uint128).max, numbers));
        assertEq(datasets.verifiersOf(job).length, 4, "a dataset that admits all takes nobody away");
    }

    function unseat(address who) internal {
        for (uint64 seat = 1; seat <= VERIFIERS; ++seat) {
            if (stakes.seatHolder(seat) != who) continue;
            vm.prank(who);
            stakes.leaveSeat(seat);
        }
    }

    /// Too few seats: no job is funded, no range assigned; a segment whose verifiers leave afterwards ends, and its money goes back.
    function test_money_never_waits_for_verifiers_that_are_not_there() public {
        (uint64 dataset, uint64 job) = jobFor(0, 3);
        unseat(verifier(0));
        assertTrue(!stakes.seated(verifier(0)), "gone");
        refusedOn(usesUnder(dataset, 1), abi.encodeWithSelector(IDatasetsLog.TooFewAdmitted.selector, 2, 3));
        uint64 id = committed(job, 0); // two are a quorum
        unseat(verifier(1));
        mine(3);
        vm.expectRevert(abi.encodeWithSelector(IJobsLog.TooFewVerifiers.selector, 1, 2));
        jobs.draw(id);
        pass(jobs.segment(id).drawBy);
        jobs.draw(id);
        assertState(id, SegmentState.UNPAID);
        assertEq(jobs.segment(id).bond, 0, "the provider's bond is free");
        refusedAssignment(job, 0, abi.encodeWithSelector(IDatasetsLog.TooFewAdmitted.selector, 1, 2));
        vm.prank(client);
        jobs.cancel(job);
        jobs.close(job);
        datasets.refund(job);
        assertEq(uint256(jobs.credit(client)), BUDGET, "all of it");
    }

    /// Who trains cannot check: a list of a quorum and the provider is too short.
    function test_a_provider_that_the_list_would_need_is_not_assigned() public {
        vm.prank(provider);
        stakes.takeSeat();
        uint64 dataset = published(100, ROOT);
        granted(dataset, client, ENDLESS, 0);
        address[] memory names = new address[](3);
        (names[0], names[1], names[2]) = (verifier(0), verifier(1), provider);
        admit(dataset, sorted(names));
        uint64 job = postOn(usesUnder(dataset, 1));
        unseat(verifier(1));
        refusedAssignment(job, 0, abi.encodeWithSelector(IDatasetsLog.TooFewAdmitted.selector, 1, 2));
    }
}

/// A job that reads more than a sum can hold.
contract DatasetsSumTest is Licensing {
    uint32 private constant MANY = 1001;

    function terms() internal view override returns (Terms memory t) {
        t = super.terms();
        t.microBatches = MANY;
    }

    function test_a_sum_that_does_not_fit_is_refused() public {
        uint64 id = published(100, ROOT);
        head = abi.encodePacked(bytes1(0x17), keccak256("order"), type(uint32).max, uint64(100), uint32(4), ROOT, hex"0000");
        vm.prank(alice);
        datasets.grant(id, client, type(uint64).max, ENDLESS, uint64(timeNow + 10 days), 0);
        uint256 cost = uint256(STEPS) * MANY * type(uint32).max * type(uint64).max / 1000;
        bytes memory reason = abi.encodeWithSelector(IDatasetsLog.BadTerm.selector, "cost", cost, 0, type(uint96).max);
        refusedOn(usesOf(id, 0, type(uint128).max), reason);
    }
}

/// Without Datasets.
contract NoDatasetsTest is Network {
    function test_a_job_that_names_datasets_is_refused() public {
        Terms memory t = terms();
        vm.prank(client);
        vm.expectRevert(IJobsLog.NoDatasets.selector);
        jobs.postLicensed(t, "");
    }
}

/// Any calls in any order: what holds over each of them.
contract DatasetsWalk is Licensing {
    uint256 internal seed;
    uint64 internal id;
    uint64 internal job;
    uint64 internal last;
    uint256 internal locked;
    uint256 internal back;

    function random(uint256 below) internal returns (uint256) {
        seed = uint256(keccak256(abi.encode(seed)));
        return seed % below;
    }

    function testFuzz_money_is_conserved_and_no_range_is_assigned_without_a_licence(uint256 seed_) public {
        seed = seed_;
        id = published(100, ROOT);
        granted(id, client, READS * 2, 0);
        postNew();
        for (uint256 i = 0; i < 14; ++i) {
            step(random(8));
            check();
        }
    }

    function postNew() internal {
        uint256 had = token.balanceOf(client);
        (job, last) = (postOn(usesOf(id, 0, type(uint128).max)), 0);
        locked += had - token.balanceOf(client) - BUDGET;
    }

    function step(uint256 which) internal {
        bool permitted = permits();
        bool trained = last != 0 && jobs.segment(last).stop == STEPS;
        if (which < 3 && !trained && !jobs.job(job).cancelled) {
            if (!permitted) return refusedAssignment(job, last, abi.encodeWithSelector(IDatasetsLog.NoLicence.selector, id, client));
            if (random(4) == 0) withheld(job, last);
            else last = settled(job, last);
        } else if (which == 3 && datasets.licence(id, client).until != 0) {
            revoked(id, client);
        } else if (which == 4) {
            granted(id, client, READS * 2, 0);
        } else if (which == 5) {
            try datasets.collect(job, uint64(random(3))) {} catch {}
        } else if (which == 6) {
            try this.pull(random(2) == 0 ? alice : bob) {} catch {}
        } else if (which == 7) {
            over();
        }
    }

    function pull(address who) external {
        vm.prank(who);
        datasets.withdraw(id);
    }

    /// The job is given up or done, what it did not use comes back, and another one is posted.
    function over() internal {
        if (!jobs.job(job).completed) {
            vm.prank(client);
            jobs.cancel(job);
        }
        jobs.close(job);
        uint256 had = token.balanceOf(client);
        datasets.refund(job);
        back += token.balanceOf(client) - had;
        granted(id, client, READS * 2, 0);
        postNew();
    }

    function permits() internal view returns (bool) {
        try datasets.need(job, provider) {
            return true;
        } catch {
            return false;
        }
    }

    function check() internal view {
        uint256 earned = datasets.dataset(id).earned;
        uint256 paid = token.balanceOf(alice) + token.balanceOf(bob);
        JobUse memory u = datasets.useOf(job);
        assertEq(token.balanceOf(address(datasets)), u.escrow + earned - paid, "held: what is locked, and what is earned and not taken");
        assertEq(locked, back + u.escrow + earned, "every token is locked, back or earned");
        assertEq(u.escrow, due(STEPS) - due(u.settled), "what is left follows from the steps alone");
        assertTrue(u.settled <= (last == 0 ? 0 : jobs.segment(last).stop), "paid for what has settled");
        uint256 taken = datasets.revenue(id, alice) + datasets.revenue(id, bob) + paid;
        assertTrue(taken <= earned && earned - taken <= 1, "owners have all of it but what rounding leaves");
    }
}
