"""Workers as members of a cluster: what they are told, how they live, who starts, watches and replaces them."""
