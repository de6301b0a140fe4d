"""Real daemons that are killed, frozen and split for minutes while work is given to them."""
