"""Maps that the picture experiments share: of photographs, in true boxes, and how rough they are."""
