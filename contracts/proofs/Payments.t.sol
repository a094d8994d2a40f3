// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Court} from "../src/dispute/Court.sol";
import {Game, Outcome, Rules, Stand} from "../src/types/DisputeTypes.sol";
import {Turn} from "../src/types/Turn.sol";

/// Jobs, Stakes and the token of a Court that does nothing but pay.
contract Till {
    uint256 public burnt;

    function stakes() external view returns (address) {
        return address(this);
    }

    function token() external view returns (address) {
        return address(this);
    }

    function transfer(address, uint256 amount) external returns (bool) {
        burnt += amount;
        return true;
    }

    function disputeResolved(uint64, bool) external {}

    function disputeVoided(uint64) external {}
}

/// The court's own payment, of a dispute that ended in any way.
contract Payer is Court {
    address internal constant ASSERTER = address(0xA1);
    address internal constant CHALLENGER = address(0xC1);

    constructor(address till) Court(till, Rules(1, 1, 1, 1, 8e18, 0, address(0))) {}

    function run(uint8 doublings, uint120 taken, uint8 outcome) external returns (uint256 held, uint256 asserter, uint256 challenger) {
        Game storage g = _games[1];
        (g.asserter, g.challenger, g.node) = (ASSERTER, CHALLENGER, bytes32(uint256(taken)));
        Turn t = Turn.wrap(0).withStand(Stand.RESOLVED).withOutcome(Outcome(outcome)).withDoublings(doublings);
        held = uint256(_bondOf(doublings)) + taken;
        _pay(1, g, t, false);
        return (held, credit[ASSERTER], credit[CHALLENGER]);
    }

    function bond(uint8 doublings) external view returns (uint256) {
        return _bondOf(doublings);
    }
}

/// Proofs by symbolic execution (contracts/review.py): whatever is taken and however it ends, all that a dispute holds is credited or burnt.
contract PaymentsProof {
    Till internal till;
    Payer internal payer;

    function setUp() public {
        till = new Till();
        payer = new Payer(address(till));
    }

    function _paid(uint8 doublings, uint120 taken, Outcome outcome) private returns (uint256 asserter, uint256 challenger) {
        uint256 held;
        (held, asserter, challenger) = payer.run(doublings, taken, uint8(outcome));
        assert(asserter + challenger + till.burnt() == held);
    }

    function check_who_won_has_half_of_the_others_bond(uint120 taken, uint8 doublings) public {
        if (doublings > 64) return;
        (uint256 asserter, uint256 challenger) = _paid(doublings, taken, Outcome.ASSERTER_LOST);
        assert(asserter == 0 && challenger == payer.bond(doublings) + taken - taken / 2);
    }

    function check_who_was_wrongly_challenged_has_half_a_bond(uint8 doublings) public {
        if (doublings > 64) return;
        (uint256 asserter, uint256 challenger) = _paid(doublings, 0, Outcome.ASSERTER_WON);
        assert(challenger == 0 && asserter == payer.bond(doublings) - payer.bond(doublings) / 2);
    }

    function check_a_concession_gives_nobody_a_gain(uint120 taken, uint8 doublings) public {
        if (doublings > 64) return;
        (uint256 asserter, uint256 challenger) = _paid(doublings, taken, Outcome.CONCEDED);
        assert(asserter == 0 && challenger == payer.bond(doublings) && till.burnt() == taken);
    }

    function check_void_gives_everything_back(uint120 taken, uint8 doublings) public {
        if (doublings > 64) return;
        (uint256 asserter, uint256 challenger) = _paid(doublings, taken, Outcome.VOID);
        assert(asserter == taken && challenger == payer.bond(doublings) && till.burnt() == 0);
    }
}
