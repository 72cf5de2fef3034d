"""What runs notebooks with parameters, keeps what their cells computed, and records their claims."""
