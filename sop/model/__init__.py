"""The networks: sound net, vision net, synthesizer and the whole of them."""
