"""One module a tab: its layout and its handlers."""
