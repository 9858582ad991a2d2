"""How many workers of each role there should be. Pure: told what is so, and when, it answers with a plan that explains itself."""
