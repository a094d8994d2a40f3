// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {IDisputes} from "./interfaces/IDisputes.sol";

/// A network without a dispute game binds this: it has no function that calls Jobs or Stakes, so under it no segment is ever
/// rejected, nobody is ever slashed, and the bond of a WITHHELD segment stays reserved.
contract NoDisputes is IDisputes {
    function disputable() external pure returns (bool) {
        return false;
    }
}
