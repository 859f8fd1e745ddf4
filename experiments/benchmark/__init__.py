"""Speed as ratios and shares, measured side by side in one process."""
