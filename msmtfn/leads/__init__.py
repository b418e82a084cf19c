"""How leads go out: what the columns are, how a day is ranked and published, and what is said of it."""
