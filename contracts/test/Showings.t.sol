// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Datasets} from "../src/Datasets.sol";
import {Showings} from "../src/Showings.sol";
import {Openings} from "../src/dispute/Openings.sol";
import {IDatasets, IDatasetsLog} from "../src/interfaces/IDatasets.sol";
import {IDisputesLog} from "../src/interfaces/IDisputes.sol";
import {IShowings} from "../src/interfaces/IShowings.sol";
import {Outcome, Proof, Shown} from "../src/types/DisputeTypes.sol";
import {Terms} from "../src/types/Types.sol";
import {Arena} from "./utils/Arena.sol";
import {Toy} from "./utils/Toy.sol";
import {Trees} from "./utils/Trees.sol";

/// Records that a dispute shows are paid for, by its loser, once, to their owners. The batch of the Toy is two records of 600 bytes: its first chunk
/// holds bytes of both, its second of the second one alone.
contract ShowingsTest is Arena {
    uint64 internal constant EACH = 10_000;
    uint64 internal constant A_RECORD = 1e6;
    uint128 internal constant BOND = PRICE * 6;

    IDatasets internal datasets;
    IShowings internal pays;
    address internal alice = address(0xA11CE);
    address internal bob = address(0xB0B);
    uint64 internal data;

    function deployShowings() internal override returns (address) {
        pays = new Showings(address(jobs));
        return address(pays);
    }

    function setUp() public override {
        super.setUp();
        datasets = new Datasets(address(jobs));
        stakes.bindDatasets(address(datasets));
        vm.prank(client);
        token.approve(address(datasets), type(uint256).max);
        data = published(alice, Toy.RECORDS);
        price(alice, data, A_RECORD);
        job = licensed(only(data));
    }

    function published(address owner, uint64 records) internal returns (uint64 id) {
        address[] memory owners = new address[](2);
        uint16[] memory shares = new uint16[](2);
        (owners[0], owners[1], shares[0], shares[1]) = (owner, bob, 2500, 7500);
        bytes memory c = cid("manifest");
        bytes32 root = Trees.top(Toy.shardsRows());
        vm.prank(owner);
        id = datasets.publish(c, keccak256("manifest"), root, records, keyService, owners, shares);
        vm.prank(owner);
        datasets.grant(id, client, EACH, type(uint64).max, uint64(timeNow + 10 days), 0);
    }

    function price(address owner, uint64 id, uint64 amount) internal {
        vm.prank(owner);
        pays.setPrice(id, amount);
    }

    function only(uint64 id) internal pure returns (uint64[] memory ids) {
        ids = new uint64[](1);
        ids[0] = id;
    }

    function licensed(uint64[] memory ids) internal returns (uint64) {
        bytes memory uses = abi.encode(ids, Toy.dataset(), uint8(0), type(uint128).max, new uint32[](ids.length));
        Terms memory t = terms(); // a hash by a precompile would use up the prank
        vm.prank(client);
        return jobs.postLicensed(t, uses);
    }

    function lie(uint64 unit, uint32 where, uint64 which) internal {
        (lieUnit, lieStage, lieElement) = (unit, where, which);
    }

    /// A dispute over stage 0 of a micro-batch, which adds the batch to the accumulator.
    function added(address by, uint64 unit, uint64 which) internal returns (uint64 id) {
        id = opened(by, drawn(job, 0), unit);
        Story memory s = story(unit, true);
        toElement(id, s, 0, which);
        prove(id, s, 0, which);
    }

    /// From TRACED to the walk over the chunks of the batch.
    function toBatch(uint64 id, Story memory s) internal {
        trace(id, s);
        walk(id, Trees.rows(s.leaves), 0);
        batch(id, s);
        walk(id, Toy.batchRows(s.x), 0);
        batchEntry(id, s);
    }

    function assertShown(uint64 id, uint64 first_, uint32 count) internal view {
        Shown memory s = game.shownIn(id);
        assertEq(s.first, first_, "first");
        assertEq(s.count, count, "count");
    }

    function claimed(uint64 id) internal {
        pays.claim(id, "");
    }

    // ---- what is noted

    function test_an_operand_of_the_batch_shows_the_records_of_its_chunk() public {
        uint64 id = opened(challenger, drawn(job, 0), 1);
        Story memory s = story(1, true);
        toElement(id, s, 0, 5);
        Proof memory p = proved(s, 0, 5);
        vm.expectEmit(true, true, false, true, address(game));
        emit IDisputesLog.RecordsShown(id, 2, 2);
        vm.prank(provider);
        game.prove(id, p);
        assertShown(id, 2, 2);
        job = licensed(only(data));
        assertShown(added(second, 4, 299), 7, 1);
    }

    function test_an_update_and_a_state_show_none() public {
        uint64 id = opened(challenger, drawn(job, 0), 2);
        Story memory s = story(2, true);
        toElement(id, s, 0, 7);
        prove(id, s, 0, 7);
        assertShown(id, 0, 0);
        paid(id);
        vm.expectRevert(abi.encodeWithSelector(IShowings.NothingOwed.selector, id));
        claimed(id);
    }

    function test_a_chunk_shows_its_records_whatever_comes_after_it() public {
        uint64 id = opened(challenger, drawn(job, 0), 4);
        Story memory s = story(4, true);
        toBatch(id, s);
        assertEq(game.shownIn(id).count, 0, "roots show nothing");
        walk(id, Toy.rows(s.x), 1);
        chunk(id, s.x, 1);
        assertShown(id, 7, 1);
        pass(game.dueOf(id));
        game.timeout(id);
        assertOutcome(id, Outcome.ASSERTER_WON);
        paid(id);
        claimed(id);
        assertEq(pays.revenue(data, alice), A_RECORD / 4, "its owner's share");
    }

    function test_a_record_is_noted_once_though_chunk_and_gather_show_it() public {
        uint64 id = opened(challenger, drawn(job, 0), 4);
        Story memory s = story(4, true);
        toBatch(id, s);
        toNamed(id, Toy.rows(s.x), s.x, 3);
        assertShown(id, 6, 2);
        gather(id, s, 3);
        assertShown(id, 6, 2);
        leaps = true;
        uint64 other_ = opened(second, game.dispute(id).segment, 4);
        toBatch(other_, s);
        toNamed(other_, Toy.rows(s.x), s.x, 299);
        assertShown(other_, 6, 0);
        gather(other_, s, 299);
        assertShown(other_, 7, 1);
    }

    function test_two_operands_show_from_the_first_to_the_last() public {
        uint64 id = opened(challenger, drawn(job, 0), 1);
        Story memory s = story(1, true);
        leaps = true;
        trace(id, s);
        walk(id, Trees.rows(s.leaves), 3);
        stage(id, s, 2);
        toNamed(id, Toy.rows(s.outputs[2]), s.outputs[2], 0);
        fold(id, s, Toy.folds(s.x, 0, Toy.N));
        pickItem(id, s, Toy.folds(s.x, 0, Toy.N), 1, 280);
        item(id, s, Toy.folds(s.x, 0, Toy.N));
        assertOutcome(id, Outcome.ASSERTER_WON);
        assertShown(id, 3, 1);
    }

    // ---- who pays

    function test_a_challenger_that_loses_pays_from_what_would_be_burnt() public {
        uint64 id = added(challenger, 1, 5);
        assertOutcome(id, Outcome.ASSERTER_WON);
        vm.expectRevert(abi.encodeWithSelector(IShowings.NothingOwed.selector, id));
        claimed(id);
        uint256 burnt = token.balanceOf(BURN);
        paid(id);
        assertEq(game.shownIn(id).owed, 2 * A_RECORD, "set aside");
        assertEq(game.credit(provider), STAKED / 2, "the asserter's half is its");
        assertEq(token.balanceOf(BURN) - burnt, STAKED / 2 - 2 * A_RECORD, "the rest is burnt");
        claimed(id);
        assertEq(pays.revenue(data, alice), A_RECORD / 2, "a quarter");
        assertEq(pays.revenue(data, bob), 3 * A_RECORD / 2, "three");
        assertEq(pays.revenue(data, stranger), 0, "nobody's");
        assertEq(token.balanceOf(address(pays)), 2 * A_RECORD, "held");
        vm.expectRevert(abi.encodeWithSelector(IShowings.AlreadyClaimed.selector, id));
        claimed(id);
        uint256 had = token.balanceOf(bob);
        vm.prank(bob);
        pays.withdraw(data);
        assertEq(token.balanceOf(bob) - had, 3 * A_RECORD / 2, "pulled");
        vm.prank(bob);
        vm.expectRevert(abi.encodeWithSelector(IShowings.NothingToWithdraw.selector, bob));
        pays.withdraw(data);
        assertMoney();
    }

    function test_an_asserter_that_loses_pays_and_no_less_is_burnt() public {
        lie(1, 0, 5);
        uint64 id = added(challenger, 1, 5);
        assertOutcome(id, Outcome.ASSERTER_LOST);
        uint256 burnt = token.balanceOf(BURN);
        paid(id);
        assertEq(token.balanceOf(BURN) - burnt, BOND / 2, "half of the bond, as ever");
        assertEq(game.credit(challenger), STAKED + BOND / 2 - 2 * A_RECORD, "less what the owners get");
        claimed(id);
        assertEq(pays.revenue(data, alice), A_RECORD / 2, "a quarter");
        assertMoney();
    }

    /// What an owner gets is never more than half of what the loser loses to others: its own challenges cost it money.
    function test_owners_get_at_most_what_the_loser_can_spare() public {
        price(alice, data, type(uint64).max);
        job = licensed(only(data));
        uint64 id = added(challenger, 1, 5);
        paid(id);
        assertEq(game.shownIn(id).owed, STAKED / 2, "all that would be burnt");
        claimed(id);
        assertEq(pays.revenue(data, alice) + pays.revenue(data, bob), STAKED / 2, "in proportion");
        lie(1, 0, 5);
        job = licensed(only(data));
        id = added(challenger, 1, 5);
        paid(id);
        assertEq(game.shownIn(id).owed, BOND / 4, "half of the challenger's part");
        claimed(id);
        assertMoney();
    }

    function testFuzz_an_owner_that_challenges_loses_more_than_it_gets(uint64 amount) public {
        price(alice, data, amount);
        job = licensed(only(data));
        uint256 had = token.balanceOf(challenger);
        uint64 id = added(challenger, 1, 5);
        paid(id);
        uint256 lost = had - token.balanceOf(challenger);
        assertTrue(2 * uint256(game.shownIn(id).owed) <= lost && game.credit(challenger) == 0, "half of its bond at most");
    }

    function test_a_void_dispute_pays_nobody() public {
        uint64 id = added(challenger, 1, 5);
        vm.prank(guardian);
        game.declareVoid(id);
        assertEq(game.shownIn(id).owed, 0, "nobody has lost");
        assertEq(game.credit(challenger), STAKED, "all bonds back");
        vm.expectRevert(abi.encodeWithSelector(IShowings.NothingOwed.selector, id));
        claimed(id);
        assertMoney();
    }

    function test_who_falls_silent_before_anything_is_shown_owes_nothing() public {
        uint64 id = opened(challenger, drawn(job, 0), 1);
        toBatch(id, story(1, true));
        pass(game.dueOf(id));
        game.timeout(id);
        paid(id);
        assertEq(game.shownIn(id).owed, 0, "nothing");
        assertEq(token.balanceOf(BURN), STAKED / 2, "burnt");
    }

    // ---- prices

    function test_a_price_holds_for_jobs_that_are_posted_after_it() public {
        vm.expectEmit(true, true, false, true, address(pays));
        emit IShowings.RecordPriced(data, 9e6, job);
        price(alice, data, 9e6);
        assertEq(pays.priceOf(data, job, EACH), A_RECORD, "the job was posted before");
        assertEq(pays.priceOf(data, job + 1, EACH), 9e6, "the next");
        price(alice, data, 0);
        assertEq(pays.priceOf(data, job + 1, EACH), 0, "the last of those set between two jobs; nothing is a price, too");
        uint64 unpriced = published(alice, Toy.RECORDS);
        assertEq(pays.priceOf(unpriced, job + 1, EACH), EACH, "as much as a thousand reads");
        vm.expectRevert(abi.encodeWithSelector(IShowings.NotOwner.selector, stranger, data));
        price(stranger, data, 1);
        vm.expectRevert(abi.encodeWithSelector(IDatasetsLog.NoSuchDataset.selector, 99));
        price(alice, 99, 1);
    }

    function test_records_of_nobody_cost_nothing() public {
        job = post();
        uint64 id = added(challenger, 1, 5);
        assertShown(id, 2, 2);
        paid(id);
        assertEq(game.shownIn(id).owed, 0, "a job that names no dataset");
        assertEq(token.balanceOf(BURN), STAKED / 2, "burnt");
    }

    // ---- several datasets

    /// Records 0 to 2 are one's, 3 to 6 another's. Places 2 and 3 of the sequence are read by unit 1.
    function test_of_several_datasets_each_is_paid_for_its_own_records() public {
        uint64[] memory ids = new uint64[](2);
        (ids[0], ids[1]) = (published(alice, 3), published(bob_(), 4));
        price(alice, ids[0], 1e6);
        price(bob_(), ids[1], 500_000);
        job = licensed(ids);
        lie(1, 0, 5);
        uint64 id = added(challenger, 1, 5);
        paid(id);
        assertEq(game.shownIn(id).owed, 2e6, "as if both were the dearest");
        vm.expectRevert(abi.encodeWithSelector(Openings.BadOpening.selector, "the data root"));
        claimed(id);
        uint256 had = token.balanceOf(challenger);
        pays.claim(id, Toy.dataset());
        vm.snapshotGasLastCall("Showings", "claim, two records of two datasets");
        uint256 ofFirst = (Toy.recordAt(0, 1, 0) < 3 ? 1 : 0) + (Toy.recordAt(0, 1, 1) < 3 ? 1 : 0);
        assertEq(pays.revenue(ids[0], alice), ofFirst * 1e6 / 4, "the first's");
        assertEq(pays.revenue(ids[1], bob_()), (2 - ofFirst) * 500_000 / 4, "the second's");
        assertEq(token.balanceOf(challenger) - had, (2 - ofFirst) * 500_000, "what was too much is the challenger's");
        assertMoney();
    }

    function bob_() internal pure returns (address) {
        return address(0xB0B2);
    }

    function test_too_much_is_burnt_where_the_challenger_has_lost() public {
        uint64[] memory ids = new uint64[](2);
        (ids[0], ids[1]) = (published(alice, 3), published(bob_(), 4));
        price(alice, ids[0], Toy.recordAt(0, 1, 0) < 3 ? 0 : 1e6);
        price(bob_(), ids[1], Toy.recordAt(0, 1, 0) < 3 ? 1e6 : 0);
        job = licensed(ids);
        uint64 id = added(challenger, 1, 5);
        paid(id);
        uint256 burnt = token.balanceOf(BURN);
        pays.claim(id, Toy.dataset());
        uint256 paid_ = pays.revenue(ids[0], alice) + pays.revenue(ids[1], bob_());
        assertTrue(token.balanceOf(BURN) - burnt + 4 * paid_ == 2e6 && paid_ < 2e6, "burnt");
    }
}
