"""The pieces of bench_speed: rows, cells, one process of ours, one of the peers', the table."""
