"""What an administrator can ask for, one module per noun."""
