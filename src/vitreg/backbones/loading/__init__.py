"""From a spec or a module to a `Backbone`."""
