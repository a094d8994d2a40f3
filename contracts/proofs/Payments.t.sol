// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {Descent} from "../src/dispute/Descent.sol";
import {Game, Outcome, Rules, Stand} from "../src/types/DisputeTypes.sol";
import {Turn} from "../src/types/Turn.sol";

/// Jobs, Stakes, the token and Showings of a court that does nothing but pay.
contract Till {
    uint256 public burnt;
    uint128 internal wanted;

    function ask(uint128 amount) external {
        wanted = amount;
    }

    function asked(uint64, uint32) external view returns (uint128) {
        return wanted;
    }

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

/// The court's own payment, of a dispute that ended in any way; it has shown a record when its owners ask for anything.
contract Payer is Descent {
    address internal constant ASSERTER = address(0xA1);
    address internal constant CHALLENGER = address(0xC1);

    constructor(address till) Descent(till, Rules(1, 1, 1, 1, 8e18, 0, address(0)), till) {}

    function run(uint8 doublings, uint120 taken, uint8 outcome, bool shows)
        external
        returns (uint256 held, uint256 asserter, uint256 challenger, uint256 owners)
    {
        Game storage g = _games[1];
        (g.asserter, g.challenger, g.node) = (ASSERTER, CHALLENGER, bytes32(uint256(taken)));
        if (shows) _records[1].count = 1;
        Turn t = Turn.wrap(0).withStand(Stand.RESOLVED).withOutcome(Outcome(outcome)).withDoublings(doublings);
        held = uint256(_bondOf(doublings)) + taken;
        if (Outcome(outcome) == Outcome.VOID) _void(1, g, t, false);
        else _payOut(1, g, t);
        return (held, credit[ASSERTER], credit[CHALLENGER], credit[showings]);
    }

    function bond(uint8 doublings) external view returns (uint256) {
        return _bondOf(doublings);
    }
}

/// Proofs by symbolic execution (contracts/review.py): whatever is taken, however it ends and whatever owners ask for, all that a dispute holds is
/// credited or burnt, and owners never have of what a liar's burn is.
contract PaymentsProof {
    Till internal till;
    Payer internal payer;

    function setUp() public {
        till = new Till();
        payer = new Payer(address(till));
    }

    function _paid(uint8 doublings, uint120 taken, Outcome outcome, uint128 asked)
        private
        returns (uint256 asserter, uint256 challenger, uint256 owners)
    {
        uint256 held;
        till.ask(asked);
        (held, asserter, challenger, owners) = payer.run(doublings, taken, uint8(outcome), asked > 0);
        assert(asserter + challenger + owners + till.burnt() == held);
        assert(owners <= asked);
    }

    function check_who_won_has_half_of_the_others_bond(uint120 taken, uint8 doublings, uint128 asked) public {
        if (doublings > 64) return;
        (uint256 asserter, uint256 challenger, uint256 owners) = _paid(doublings, taken, Outcome.ASSERTER_LOST, asked);
        assert(asserter == 0 && challenger + owners == payer.bond(doublings) + taken - taken / 2);
        assert(owners <= taken / 4 && till.burnt() == taken / 2);
    }

    function check_who_was_wrongly_challenged_has_half_a_bond(uint8 doublings, uint128 asked) public {
        if (doublings > 64) return;
        (uint256 asserter, uint256 challenger, uint256 owners) = _paid(doublings, 0, Outcome.ASSERTER_WON, asked);
        assert(challenger == 0 && asserter == payer.bond(doublings) - payer.bond(doublings) / 2);
        assert(owners <= payer.bond(doublings) / 2);
    }

    function check_a_concession_gives_nobody_a_gain(uint120 taken, uint8 doublings) public {
        if (doublings > 64) return;
        (uint256 asserter, uint256 challenger,) = _paid(doublings, taken, Outcome.CONCEDED, 0);
        assert(asserter == 0 && challenger == payer.bond(doublings) && till.burnt() == taken);
    }

    function check_void_gives_everything_back(uint120 taken, uint8 doublings, uint128 asked) public {
        if (doublings > 64) return;
        (uint256 asserter, uint256 challenger, uint256 owners) = _paid(doublings, taken, Outcome.VOID, asked);
        assert(asserter == taken && challenger == payer.bond(doublings) && owners == 0 && till.burnt() == 0);
    }
}
