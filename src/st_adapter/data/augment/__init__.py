"""What training makes of clips: crops, colours, mirrors, reversals, mixtures."""
