"""The file format of packed data, shared by the packer and the readers."""
