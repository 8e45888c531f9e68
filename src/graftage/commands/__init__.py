"""The commands: flags become calls of the verbs, what these found becomes lines and an exit status."""
