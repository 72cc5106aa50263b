"""From a spec, or from what a person hands over, to a `Backbone`."""
