"""The command line: nouns and verbs over REST."""
