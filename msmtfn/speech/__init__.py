"""Speech to turns: who speaks when, what was said, and who of the speakers is the agent. Without Ray."""
