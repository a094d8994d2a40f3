// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// Money for local networks and test networks: 6 decimals, its deployer mints. A deployment that matters names an ERC-20 of worth.
contract TestToken is ERC20 {
    address public immutable minter;

    error NotMinter(address sender);

    constructor() ERC20("Assay test token", "TEST") {
        minter = msg.sender;
    }

    function decimals() public pure override returns (uint8) {
        return 6;
    }

    function mint(address to, uint256 amount) external {
        if (msg.sender != minter) revert NotMinter(msg.sender);
        _mint(to, amount);
    }
}
