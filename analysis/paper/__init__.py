"""What the paper reports, and which of our rows each of its rows is."""
