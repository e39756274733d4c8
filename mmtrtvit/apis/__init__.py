"""What the tools do, importable: one module a tool."""
