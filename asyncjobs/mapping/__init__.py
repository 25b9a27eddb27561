"""Call a function on many items, with bounded look-ahead."""
