"""Looking at a run: charts and the page, from what it has written down. Imports no room."""
