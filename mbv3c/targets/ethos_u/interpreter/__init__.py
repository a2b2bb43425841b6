"""An interpreter of Ethos-U command streams, to prove what a compiled program computes."""
