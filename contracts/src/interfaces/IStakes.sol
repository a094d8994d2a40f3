// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// Collateral of providers and verifiers, their registration, and the verifiers' seats.
/// stake = free + reserved (segments, draws, seats) + unbonding. What is reserved for segments and draws is counted by Jobs
/// (IJobs.heldOf), which pays and frees bonds in one write; nothing leaves here without asking for it.
interface IStakes {
    event Registered(address indexed who, bytes32 encryptionKey, string peer);
    event Deposited(address indexed who, uint128 amount);
    event SeatTaken(address indexed who, uint64 seat);
    event SeatLeft(address indexed who, uint64 seat);
    event FeeCharged(address indexed who, uint64 indexed segment, uint128 amount, string reason);
    event Slashed(address indexed who, uint64 indexed segment, uint128 amount, uint128 burnt);
    event Unbonding(address indexed who, uint128 amount, uint64 until);
    event StakeWithdrawn(address indexed who, uint128 amount);
    event Bound(address jobs, address disputes);
    event DatasetsBound(address datasets);

    error AlreadyBound();
    error NotDeployer(address sender, address deployer);
    error NotJobs(address sender);
    error NotDisputes(address sender);
    error ZeroAmount();
    error UnsupportedToken(uint256 expected, uint256 received);
    error BadAddress();
    error FutureBlock(uint64 asked, uint256 blockNumber);
    error InsufficientStake(address who, uint128 free, uint128 needed);
    error ReservationExceeded(address who, uint64 segment, uint128 reserved, uint128 asked);
    error BadPeer(uint256 length);
    error BadEncryptionKey();
    error NotRegistered(address who);
    error NotSeatHolder(uint64 seat, address sender);
    error StillUnbonding(uint64 until);
    error NothingUnbonding(address who);

    // ---- anyone, for itself
    function register(bytes32 encryptionKey, string calldata peer) external;
    function deposit(uint128 amount) external;
    function takeSeat() external returns (uint64 seat);
    function leaveSeat(uint64 seat) external;
    function unbond(uint128 amount) external;
    function withdrawStake() external;

    // ---- the deployer, once
    function bind(address jobs, address disputes) external;
    /// The deployer, once, where a network has datasets.
    function bindDatasets(address datasets) external;

    // ---- Jobs
    /// Moves stake, which Jobs has just taken out of a reservation, to Jobs.
    function charge(address who, uint64 segment, uint128 amount, string calldata reason) external;

    // ---- Disputes
    /// Takes `amount` out of the reservation: burns `burnt` of it, sends the rest to the Disputes contract.
    function slash(address who, uint64 segment, uint128 amount, uint128 burnt) external;

    // ---- views
    function token() external view returns (address);
    function jobs() external view returns (address);
    function disputes() external view returns (address);
    /// Zero: jobs that name datasets are refused.
    function datasets() external view returns (address);
    function seatStake() external view returns (uint128);
    function unbondDelay() external view returns (uint64);
    /// Whether it holds a seat now.
    function seated(address who) external view returns (bool);
    function stakeOf(address who) external view returns (uint128);
    /// Segments, draws and seats.
    function reservedOf(address who) external view returns (uint128);
    function reservation(address who, uint64 segment) external view returns (uint128);
    function unbondingOf(address who) external view returns (uint128 amount, uint64 until);
    function freeStake(address who) external view returns (uint128);
    function encryptionKeyOf(address who) external view returns (bytes32);
    /// Seats held now.
    function seatCount() external view returns (uint64);
    /// Seats held at the end of a past block.
    function seatCountAt(uint64 blockNumber) external view returns (uint64);
    /// Who held the seat in place `slot` (0 .. seatCountAt - 1) at the end of a past block.
    function holderAt(uint64 slot, uint64 blockNumber) external view returns (address);
    /// Holder of the seat numbered `seat`; zero when it has been left.
    function seatHolder(uint64 seat) external view returns (address);
}
