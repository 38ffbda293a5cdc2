"""What is thrown at the running product, and how it is looked at afterwards."""
