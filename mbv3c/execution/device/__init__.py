"""Devices of other machines: serving one, listing those of a tracker, running a bundle there."""
