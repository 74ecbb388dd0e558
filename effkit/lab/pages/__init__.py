"""The page that `ek.share` writes: its parts, its template and style, and what keeps foreign text from becoming markup."""
