"""``GET /console``: one page that shows what the router sees and why it does what it does."""
