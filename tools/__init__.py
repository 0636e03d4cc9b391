"""What builds the site and makes records that ship; not part of the wheel."""

from abpn_lib.files import AbpnError


class BuildError(AbpnError):
    """A step from the notebooks to the site that cannot be done."""
