"""The foundation: update rules and engines, parameter routing, solvers, oracles that count, ranges and method cards."""
