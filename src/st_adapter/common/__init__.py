"""What every part uses: files, progress, interrupts, provenance."""
