"""Documents that rows rest on: read them (`read`), cut them into passages (`chunk`), find passages (`index`)."""
