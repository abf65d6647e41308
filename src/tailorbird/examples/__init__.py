"""Examples that ship with the package: `tailorbird demo` copies the demo's folder and runs its spec."""
