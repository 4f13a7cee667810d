"""What a finished run deserves to be told: warnings about its result, and what to try next."""
