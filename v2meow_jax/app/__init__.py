"""The page on which people make music for their videos."""
