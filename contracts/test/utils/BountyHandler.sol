// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Sponsored} from "./Sponsored.sol";

/// Everything that anybody may do with bounties on three trainings (one that ended, one that was cancelled with a segment settled, one with none)
/// and four evaluations, in any order. What is refused changes nothing.
contract BountyHandler is Sponsored {
    uint64[3] internal jobOf;
    mapping(uint64 job => uint64[]) internal settledIn;
    uint64[4] internal shows;
    uint64[4] internal rights = [uint64(1), 700, 750, 800];
    mapping(uint64 bounty => uint256) public creditedOf;
    mapping(uint64 bounty => uint256) public paidOf;

    constructor() {
        setUp();
        (uint64 job, uint64[] memory ids) = trainedJob();
        (jobOf[0], settledIn[job]) = (job, ids);
        jobOf[1] = post();
        settledIn[jobOf[1]].push(settledBy(other, jobOf[1], 0, rootOf(SEGMENT_STEPS, trained())));
        jobOf[2] = post();
        vm.startPrank(client);
        jobs.cancel(jobOf[1]);
        jobs.cancel(jobOf[2]);
        vm.stopPrank();
        for (uint256 i = 0; i < 4; ++i) {
            shows[i] = evaluated(rights[i]);
        }
    }

    function contracts() external view returns (address, address) {
        return (address(bounties), address(token));
    }

    function count() public pure returns (uint256) {
        return 3;
    }

    function actor(uint256 i) public view returns (address) {
        return [sponsor, provider, other][i];
    }

    function allPaid(uint64 id) external view returns (bool) {
        uint64[] memory ids = settledIn[bounties.bounty(id).job];
        for (uint256 i = 0; i < ids.length; ++i) {
            if (!bounties.paid(id, ids[i])) return false;
        }
        return true;
    }

    function _now() private {
        vm.roll(blockNow);
        vm.warp(timeNow);
    }

    function _some(uint256 x) private view returns (uint64) {
        return uint64(bound(x, 1, bounties.bountyCount()));
    }

    // ---- calls ---------------------------------------------------------------------------------------------------------------

    function offer(uint256 x) external {
        _now();
        if (bounties.bountyCount() >= 8) return;
        offered(jobOf[x % 3]);
    }

    function begin(uint256 x) external {
        _now();
        if (bounties.bountyCount() == 0) return;
        uint64 id = _some(x);
        uint64[] memory ids = settledIn[bounties.bounty(id).job];
        bounties.begin(id, ids.length == 0 ? 0 : ids[ids.length - 1]);
    }

    function showOne(uint256 x, uint256 y) external {
        _now();
        if (bounties.bountyCount() == 0) return;
        uint64 id = _some(x);
        show(id, bounties.bounty(id).job, shows[y % 4], rights[y % 4]);
    }

    function collect(uint256 x, uint256 y) external {
        _now();
        if (bounties.bountyCount() == 0) return;
        uint64 id = _some(x);
        uint64[] memory all = settledIn[bounties.bounty(id).job];
        if (all.length == 0) return;
        uint64[] memory ids = new uint64[](1);
        ids[0] = all[y % all.length];
        uint256 before = _credits();
        bounties.collect(id, ids);
        creditedOf[id] += _credits() - before;
        paidOf[id] += _credits() - before;
    }

    function giveBack(uint256 x) external {
        _now();
        if (bounties.bountyCount() == 0) return;
        uint64 id = _some(x);
        uint256 before = _credits();
        bounties.giveBack(id);
        creditedOf[id] += _credits() - before;
    }

    function withdraw(uint256 x) external {
        _now();
        vm.prank(actor(x % 3));
        bounties.withdraw();
    }

    function wait(uint256 x) external {
        pass(timeNow + bound(x, 1, 12 hours));
    }

    function _credits() private view returns (uint256 sum) {
        for (uint256 i = 0; i < count(); ++i) {
            sum += bounties.credit(actor(i));
        }
    }
}
