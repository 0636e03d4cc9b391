"""The library behind the reproducible companion of Anchor-based Plain Net (ABPN)."""
