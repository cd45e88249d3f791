"""What a schedule takes: residencies, timeline and memory, in compiled code."""
