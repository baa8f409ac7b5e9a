"""The tables and figures of the paper that dynamic gap comes from: what they run, and what they print."""
