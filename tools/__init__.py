"""What builds the site and makes records that ship; not part of the wheel."""
