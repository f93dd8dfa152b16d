"""nftables: pure text, and the few lines that load it."""
