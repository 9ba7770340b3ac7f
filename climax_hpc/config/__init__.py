"""What YAML files and flags become: the parser and the config of every command."""
