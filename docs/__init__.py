"""What makes the site; the pages that are written by hand are beside it."""
