"""Results for people (HTML, Markdown, terminal) and for machines (JUnit)."""
