"""Jobs: their events, store, leases and heartbeats, and what a caller sees of one."""
