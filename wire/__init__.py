"""What devices say to each other: ids, signed records, messages, events and effects."""
