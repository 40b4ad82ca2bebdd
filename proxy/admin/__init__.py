"""What operators do, each thing written once: the admin API serves these operations, and the command line calls them.

An operation (`operation.Operation`) is a plain function of the store and a typed question, with a typed answer.
`operations.OPERATIONS` lists them; `api` serves them over HTTP, `description` describes them, and `proxy.cli.calling`
calls them, on the local store or on a server's.
"""
