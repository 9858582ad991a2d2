"""What a worker does for decode: pull a prompt's KV, go on behind the tokens the client has, stream to the end."""
