"""The simulated network: the real machines of all roles on one seeded virtual clock."""
