"""As jukebox: only to be found."""
