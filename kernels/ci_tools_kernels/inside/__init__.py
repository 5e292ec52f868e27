"""What runs in the kernel's environment: started by file path, needing only ipykernel.

Nothing here imports the rest of the package, and code in a kernel cannot import any of it: the
entry point makes the package's name up, and a kernel forgets it before it runs user code.
"""
