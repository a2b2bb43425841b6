"""The devices that mbv3c compiles for, as data, and the backends that build for them."""
