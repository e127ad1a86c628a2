"""What a user may write: suites and their entries, checked on reading; the suites that come with the project, a YAML file each."""
