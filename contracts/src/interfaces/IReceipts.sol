// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// What a signer claims of one run of a program (docs/protocol.md, "Receipts"): a segment of one step, from a start to the ends under `linkRoot`.
/// EIP-712: Claim(address signer,bytes32 programRoot,bytes32 dataRoot,bytes32 scheduleRoot,bytes32 stateRoot,bytes32 linkRoot,uint128 bond,uint64 expires)
struct Claim {
    address signer;
    bytes32 programRoot;
    bytes32 dataRoot;
    bytes32 scheduleRoot;
    bytes32 stateRoot;
    bytes32 linkRoot;
    // What it loses of its stake if the claim is false.
    uint128 bond;
    // Until when a dispute over it may be sealed.
    uint64 expires;
}

/// A claim that somebody has brought, to dispute it.
struct Accused {
    Claim claim;
    // Links of the step, less one: micro-batches of the program.
    uint32 micros;
    uint32 microLeaves;
    uint32 updateLeaves;
    // Open disputes.
    uint32 disputes;
    // It was refuted, or conceded.
    bool fell;
    // Reserved of the signer's stake for it now.
    uint128 held;
}

/// Stake behind signed receipts.
interface IReceipts {
    event Deposited(address indexed who, uint128 amount);
    event Unbonding(address indexed who, uint128 amount, uint64 until);
    event StakeWithdrawn(address indexed who, uint128 amount);
    event AccusedOf(uint64 indexed receipt, address indexed signer, bytes32 linkRoot);
    event Slashed(address indexed who, uint64 indexed segment, uint128 amount, uint128 burnt);
    event Fell(uint64 indexed receipt);

    error ZeroAmount();
    error InsufficientStake(address who, uint128 free, uint128 needed);
    error NothingUnbonding(address who);
    error StillUnbonding(uint64 until);
    error NotDisputes(address sender);
    error NotDeployer(address sender, address deployer);
    error AlreadyBound();
    error BadSignature(address signer);
    error IsAccused(uint64 receipt);
    error NoSuchReceipt(uint64 receipt);
    error HasFallen(uint64 receipt);
    error TooLate(uint64 notAfter, uint64 now_);

    function deposit(uint128 amount) external;
    function unbond(uint128 amount) external;
    function withdrawStake() external;
    /// Brings a signed claim, so that a dispute over it can be sealed. `program` is the head of the claim's program (221 bytes).
    function accuse(Claim calldata claim, bytes calldata signature, bytes calldata program) external returns (uint64 receipt);
    function bind(address disputes) external;

    function token() external view returns (address);
    function disputes() external view returns (address);
    function unbondDelay() external view returns (uint64);
    function receiptCount() external view returns (uint64);
    function receipt(uint64 id) external view returns (Accused memory);
    /// Of a claim's EIP-712 digest; 0: nobody has brought it.
    function receiptOf(bytes32 digest) external view returns (uint64);
    function digestOf(Claim calldata claim) external view returns (bytes32);
    function stakeOf(address who) external view returns (uint128);
    function reservedOf(address who) external view returns (uint128);
    function unbondingOf(address who) external view returns (uint128 amount, uint64 until);
}
