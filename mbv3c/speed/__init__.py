"""How fast a bundle is: latency beside other runtimes, executed instructions, kernel by kernel."""
