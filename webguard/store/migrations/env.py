"""Alembic runs this to apply the migrations, on the connection and in the transaction it is given.

There is no offline mode and no configuration file: `store.migrate` is the only caller.
"""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()
