"""How long networks and meta-nodes take: on this machine (`latency`), on a phone (`android`)."""
