"""Writers: what a suite found, for machines and people that read files: JUnit, Markdown, GitHub, a picture."""
