"""Where the `abpn` command starts: an interrupt while its parts load ends it at once, without a traceback."""

from __future__ import annotations

import signal


def main() -> int:
    """Load the command and run it; return its exit status."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from abpn_lib import cli

    signal.signal(signal.SIGINT, before)
    return cli.main()
