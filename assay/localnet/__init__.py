"""A network on one machine: chain, contracts, bootstrap node, faucet, demo."""
