"""Everything that touches a board: a target to reach it, an agent on it, measurements from it."""
