"""From files on disk to clips on the device."""
