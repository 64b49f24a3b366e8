"""For people who argue about the method: a generated world with known truth, and evidence over seeds."""
