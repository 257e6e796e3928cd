"""How long a test waits for another process before it gives up."""

PATIENCE = 300.0  # seconds; nothing waits for them to pass, and a machine that does other work is several times slower
