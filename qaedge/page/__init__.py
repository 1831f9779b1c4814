"""The page: what tables, search and measured networks say of a space, as one HTML file and as pictures for papers."""
