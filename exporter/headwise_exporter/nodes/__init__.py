"""Single-nodal performance: what each node and each head recognises, and how sure that is.

May import `training` and what lies below it.
"""
